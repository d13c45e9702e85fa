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

// Where the samples of one RoI lie along one axis, in cells of the feature map.
template <typename T>
struct AxisSamples {
  T start;          // where the RoI begins
  T bin;            // length of one output bin; negative when the box is inverted
  int64_t grid;     // samples in each bin
  int64_t pooled;   // output bins
  int64_t extent;   // cells of the map

  // The order of these operations is torchvision's: whether a sample is on the map is decided on
  // the rounded result, so another order would decide some samples differently.
  T position(int64_t bin_index, int64_t sample) const {
    return start + static_cast<T>(bin_index) * bin +
        static_cast<T>(static_cast<T>(sample) + static_cast<T>(0.5)) * bin / static_cast<T>(grid);
  }

  bool on_map(T position) const {
    return position >= T(-1) && position <= static_cast<T>(extent);
  }
};

template <typename T>
struct Bilinear {
  int64_t low;
  int64_t high;
  T low_weight;
  T high_weight;
};

// The two cells that a sample on the map reads. Outside [0, extent - 1] it reads the border cell.
template <typename T>
Bilinear<T> bilinear(T position, int64_t extent) {
  position = std::max(position, T(0));
  const int64_t low = static_cast<int64_t>(position);
  if (low >= extent - 1) {
    return {extent - 1, extent - 1, T(1), T(0)};
  }
  const T fraction = position - static_cast<T>(low);
  return {low, low + 1, T(1) - fraction, fraction};
}

// The cells that one RoI reads along one axis: for each output bin a list of (cell, weight), with
// the samples that fall on one cell merged.
template <typename T>
struct AxisTaps {
  std::vector<int64_t> cells;       // distinct cells, each once, in the order they were met
  std::vector<int64_t> slots;       // per tap: position of its cell in `cells`
  std::vector<int64_t> tap_cells;   // per tap: its cell
  std::vector<T> weights;           // per tap
  std::vector<int64_t> bin_begin;   // taps of bin p are [bin_begin[p], bin_begin[p + 1])
  int64_t samples_on_map;

  void build(const AxisSamples<T>& samples) {
    cells.clear();
    slots.clear();
    tap_cells.clear();
    weights.clear();
    bin_begin.assign(1, 0);
    samples_on_map = 0;
    for (int64_t p = 0; p < samples.pooled; ++p) {
      const auto [first, last] = range_on_map(samples, p);
      for (int64_t i = first; i < last; ++i) {
        const Bilinear<T> sample = bilinear(samples.position(p, i), samples.extent);
        add(sample.low, sample.low_weight);
        if (sample.high != sample.low) {
          add(sample.high, sample.high_weight);
        }
      }
      samples_on_map += std::max<int64_t>(last - first, 0);
      bin_begin.push_back(static_cast<int64_t>(weights.size()));
    }
  }

 private:
  // Positions are monotone in the sample index, rounding included, so the samples of a bin that are
  // on the map are one run. Bisection finds it: a box of millions of cells costs no more than its
  // samples on the map.
  static std::pair<int64_t, int64_t> range_on_map(const AxisSamples<T>& samples, int64_t p) {
    const bool ascending = samples.bin >= T(0);
    const T extent = static_cast<T>(samples.extent);
    const auto reached = [&](int64_t i) {
      return ascending ? samples.position(p, i) >= T(-1) : samples.position(p, i) <= extent;
    };
    const auto passed = [&](int64_t i) {
      return ascending ? samples.position(p, i) > extent : samples.position(p, i) < T(-1);
    };
    const int64_t grid = samples.grid;
    return {first_where(grid, reached), first_where(grid, passed)};
  }

  template <typename Predicate>
  static int64_t first_where(int64_t size, const Predicate& holds) {
    int64_t low = 0;
    int64_t high = size;
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

  // Samples come in order, up or down, so a cell met before is one of the last three.
  static constexpr int64_t kLookBack = 3;

  void add(int64_t cell, T weight) {
    const int64_t slot = slot_of(cell);
    const int64_t taps = static_cast<int64_t>(weights.size());
    for (int64_t tap = std::max(bin_begin.back(), taps - kLookBack); tap < taps; ++tap) {
      if (slots[tap] == slot) {
        weights[tap] += weight;
        return;
      }
    }
    slots.push_back(slot);
    tap_cells.push_back(cell);
    weights.push_back(weight);
  }

  int64_t slot_of(int64_t cell) {
    const int64_t met = static_cast<int64_t>(cells.size());
    for (int64_t slot = std::max<int64_t>(0, met - kLookBack); slot < met; ++slot) {
      if (cells[slot] == cell) {
        return slot;
      }
    }
    cells.push_back(cell);
    return met;
  }
};

}  // namespace roialign
