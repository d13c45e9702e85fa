// The sampling rule of every RoI operator on the CPU, along one axis.
//
// RoIAlign factors per axis: whether a sample is on the map, the clamping at the border and the
// bilinear weights of a row do not depend on the column. An operator therefore asks for the taps of
// its rows and of its columns, and multiplies them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace roialign {

// More samples than this in one bin cannot be counted in float32, whose integers end there.
constexpr double kMaxAdaptiveGrid = 16777216.0;
constexpr int64_t kMaxSamplingRatio = 128;

// What is made of a bin: the mean of its samples, the mean of the surface between the cells, for which it takes no
// samples, or its samples one by one.
enum class Take { mean, integral, samples };

// The closed interval [-1, extent] is on the map. NaN is not.
template <typename T>
bool is_on_map(T position, int64_t extent) {
  return position >= T(-1) && position <= static_cast<T>(extent);
}

// Where the samples of one RoI lie along one axis, in cells of the feature map.
template <typename T>
struct AxisSamples {
  T start;          // where the RoI begins
  T bin;            // length of one output bin; negative when the box is inverted
  int64_t grid;     // samples in each bin
  int64_t pooled;   // output bins
  int64_t extent;   // cells of the map
  Take take = Take::mean;
  int64_t first = 0;  // where those bins begin, and
  int64_t whole = 0;  // how many there are, where they are some of the RoI's bins only

  // The order of these operations is torchvision's: whether a sample is on the map is decided on
  // the rounded result, so another order would decide some samples differently.
  T position(int64_t bin_index, int64_t sample) const { return beginning(bin_index) + into_bin(sample); }
  T beginning(int64_t bin_index) const { return start + static_cast<T>(first + bin_index) * bin; }
  T into_bin(int64_t sample) const {
    return static_cast<T>(static_cast<T>(sample) + static_cast<T>(0.5)) * bin / static_cast<T>(grid);
  }

  // Positions are monotone in the bin and in the sample, rounding included, so those at both ends tell.
  bool are_all_on_map() const {
    return grid > 0 && pooled > 0 && is_on_map(position(0, 0), extent) &&
        is_on_map(position(pooled - 1, grid - 1), extent);
  }

  // Where a bin begins, and the one before it ends.
  double edge(int64_t bin_index) const {
    return static_cast<double>(start) + static_cast<double>(first + bin_index) * static_cast<double>(bin);
  }

  // First and past-the-last sample of a bin that are on the map.
  std::pair<int64_t, int64_t> run_on_map(int64_t bin_index) const {
    return run_between(bin_index, T(-1), static_cast<T>(extent));
  }

  // First and past-the-last sample of a bin from `low` to `high`. Positions are monotone in the
  // sample index, rounding included, so those samples are one run. Bisection finds it: a box of
  // millions of cells costs no more than its samples on the map.
  std::pair<int64_t, int64_t> run_between(int64_t bin_index, T low, T high) const {
    const bool ascending = bin >= T(0);
    const auto reached = [&](int64_t i) {
      return ascending ? position(bin_index, i) >= low : position(bin_index, i) <= high;
    };
    const auto passed = [&](int64_t i) {
      return ascending ? position(bin_index, i) > high : position(bin_index, i) < low;
    };
    return {first_where(reached), first_where(passed)};
  }

 private:
  template <typename Predicate>
  int64_t first_where(const Predicate& holds) const {
    int64_t low = 0;
    int64_t high = grid;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (holds(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

template <typename T>
struct Bilinear {
  int64_t low;
  int64_t high;
  T fraction;   // weight of `high`
  bool free;    // whether moving the sample a little moves the fraction: not clamped to the border
};

// The two cells that a sample on the map reads. Outside [0, extent - 1] it reads the border cell.
template <typename T>
Bilinear<T> bilinear(T position, int64_t extent) {
  const T inside = std::max(position, T(0));
  const int64_t low = static_cast<int64_t>(inside);
  if (low >= extent - 1) {
    return {extent - 1, extent - 1, T(0), false};
  }
  return {low, low + 1, inside - static_cast<T>(low), position > T(0)};
}

// The same for the surface that falls to zero within one cell beyond the border cells: it is that of a map with
// a ring of zeros around it, whose cells -1 and `extent` are none of the map's.
inline Bilinear<double> bilinear_to_zero(double position, int64_t extent) {
  const Bilinear<double> ringed = bilinear(position + 1.0, extent + 2);
  return {ringed.low - 1, ringed.high - 1, ringed.fraction, ringed.free};
}

// The cells that a RoI's bins read and the sums of their shares: bin b has those from begin[b] to begin[b + 1] - 1,
// each once, in ascending order. `cell` and `sums`, of zeros, have room for two of each sample and one more. Returns
// how many samples are on the map.
template <typename T>
int64_t merge_samples(const AxisSamples<T>& samples, int64_t* begin, int64_t* cell, double* sums) {
  const bool ascending = samples.bin >= T(0);
  int64_t taps = 0, on_map = 0;
  begin[0] = 0;
  for (int64_t p = 0; p < samples.pooled; ++p) {
    const T beginning = samples.beginning(p);
    int64_t last = INT64_MIN / 2;  // cell read so far
    for (int64_t i = 0; i < samples.grid; ++i) {
      const T position = beginning + samples.into_bin(ascending ? i : samples.grid - 1 - i);
      if (is_on_map(position, samples.extent)) {
        // Without a branch, which no processor would foresee: `low` is new, or the last cell, or the one before it.
        const Bilinear<T> sample = bilinear(position, samples.extent);
        const int64_t tap = taps - 1 + std::clamp<int64_t>(sample.low - last, -1, 1);
        sums[tap] += 1.0 - static_cast<double>(sample.fraction);
        sums[tap + 1] += static_cast<double>(sample.fraction);
        cell[tap] = sample.low;
        cell[tap + 1] = sample.high;
        taps = tap + 1 + (sample.high > sample.low);
        last = sample.high;
        ++on_map;
      }
    }
    begin[p + 1] = taps;
  }
  return on_map;
}

// The matrix [bins, cells] of one RoI along one axis, by rows: bin b reads the cells
// cell[begin[b]] to cell[begin[b + 1] - 1], each once, in ascending order. A bin's result is the mean over all its
// samples, or over all its length, what is off the map included. Where samples are taken one by one, each of those on
// the map is a bin here.
template <typename T>
struct AxisTaps {
  std::vector<int64_t> begin;
  std::vector<int64_t> cell;
  std::vector<T> weight;
  std::vector<int64_t> first_sample;  // of the RoI's bins, and one more, where samples are taken one by one
  T on_map;  // of the RoI's samples; or the share of its length, of 1
  T total;

  void build(const AxisSamples<T>& samples) {
    begin.assign(1, 0);
    cell.clear();
    sums.clear();
    first_sample.clear();
    samples.take == Take::integral ? integrate(samples) : sample(samples);
    const double divisor = samples.take == Take::mean ? static_cast<double>(samples.grid) : 1.0;
    weight.resize(sums.size());
    for (size_t tap = 0; tap < sums.size(); ++tap) {
      weight[tap] = static_cast<T>(sums[tap] / divisor);
    }
  }

  // Makes these, the taps of the rows of a plane, those of the rows of a volume, whose planes of `plane_height`
  // rows lie one below the other.
  void stack(const AxisTaps& planes, int64_t plane_height) {
    const AxisTaps plane = std::move(*this);
    begin.assign(1, 0);
    cell.clear();
    weight.clear();
    for (size_t upper = 0; upper + 1 < planes.begin.size(); ++upper) {
      for (size_t bin = 0; bin + 1 < plane.begin.size(); ++bin) {
        for (int64_t z = planes.begin[upper]; z < planes.begin[upper + 1]; ++z) {
          for (int64_t y = plane.begin[bin]; y < plane.begin[bin + 1]; ++y) {
            cell.push_back(planes.cell[z] * plane_height + plane.cell[y]);
            weight.push_back(planes.weight[z] * plane.weight[y]);
          }
        }
        begin.push_back(static_cast<int64_t>(cell.size()));
      }
    }
  }

 private:
  std::vector<double> sums;
  static constexpr int64_t kMostAtOnce = 1 << 14;  // samples

  void sample(const AxisSamples<T>& samples) {
    const bool all_on_map = samples.are_all_on_map();
    int64_t count = 0;
    if (all_on_map && samples.take == Take::mean && samples.grid * samples.pooled <= kMostAtOnce) {
      sample_all(samples);
      count = samples.grid * samples.pooled;
    } else {
      for (int64_t p = 0; p < samples.pooled; ++p) {
        const auto [first, last] =
            all_on_map ? std::pair<int64_t, int64_t>(0, samples.grid) : samples.run_on_map(p);
        sample_bin(samples, p, first, last, count);
        count += std::max<int64_t>(last - first, 0);
      }
    }
    if (samples.take == Take::samples) {
      first_sample.push_back(count);
    }
    on_map = static_cast<T>(count);
    const int64_t bins = samples.whole > 0 ? samples.whole : samples.pooled;
    total = static_cast<T>(std::max<int64_t>(samples.grid * bins, 1));
  }

  void sample_bin(const AxisSamples<T>& samples, int64_t p, int64_t first, int64_t last, int64_t count) {
    const bool one_by_one = samples.take == Take::samples;
    const bool ascending = samples.bin >= T(0) || one_by_one;
    if (one_by_one) {
      first_sample.push_back(count);
    }
    for (int64_t i = first; i < last; ++i) {
      const int64_t next = ascending ? i : first + last - 1 - i;
      const Bilinear<T> sample = bilinear(samples.position(p, next), samples.extent);
      add(sample.low, 1.0 - static_cast<double>(sample.fraction));
      if (sample.high != sample.low) {
        add(sample.high, static_cast<double>(sample.fraction));
      }
      if (one_by_one) {
        begin.push_back(static_cast<int64_t>(cell.size()));
      }
    }
    if (!one_by_one) {
      begin.push_back(static_cast<int64_t>(cell.size()));
    }
  }

  // Room for all samples of all bins, before those that read one cell are found.
  void sample_all(const AxisSamples<T>& samples) {
    const int64_t most = 2 * samples.grid * samples.pooled;
    begin.resize(samples.pooled + 1);
    cell.resize(most + 1);
    sums.assign(most + 1, 0.0);
    merge_samples(samples, begin.data(), cell.data(), sums.data());
    cell.resize(begin.back());
    sums.resize(begin.back());
  }

  // Between two cells the surface is straight, so that its integral there is the length times the value in the middle.
  void integrate(const AxisSamples<T>& samples) {
    const double extent = static_cast<double>(samples.extent);
    for (int64_t p = 0; p < samples.pooled; ++p) {
      const double size = samples.edge(p + 1) - samples.edge(p);
      const double first = std::max(samples.edge(p), -1.0);
      const double last = std::min(samples.edge(p + 1), extent);
      for (double low = first, high; low < last; low = high) {
        high = std::min(std::floor(low) + 1.0, last);
        const Bilinear<double> middle = bilinear_to_zero(low + (high - low) / 2, samples.extent);
        const double share = (high - low) / size;
        if (middle.low >= 0) {
          add(middle.low, (1.0 - middle.fraction) * share);
        }
        if (middle.high < samples.extent) {
          add(middle.high, middle.fraction * share);
        }
      }
      begin.push_back(static_cast<int64_t>(cell.size()));
    }
    const double start = samples.edge(0), end = samples.edge(samples.pooled);
    const double length = std::clamp(end, -1.0, extent) - std::clamp(start, -1.0, extent);
    on_map = end > start ? static_cast<T>(length / (end - start)) : T(0);
    total = 1;
  }

  // Samples come in order, so a cell met before in this bin is one of the last three.
  static constexpr int64_t kLookBack = 3;

  void add(int64_t read, double share) {
    const int64_t taps = static_cast<int64_t>(cell.size());
    for (int64_t tap = std::max(begin.back(), taps - kLookBack); tap < taps; ++tap) {
      if (cell[tap] == read) {
        sums[tap] += share;
        return;
      }
    }
    cell.push_back(read);
    sums.push_back(share);
  }
};

}  // namespace roialign
