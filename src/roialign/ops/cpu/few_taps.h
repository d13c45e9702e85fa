// RoIs of few samples, for which a plan takes longer than the sums: the taps of one axis, without memory of their own.
#pragma once

#include "roi.h"

namespace roialign {

template <typename T>
class FewTaps {
 public:
  static constexpr int64_t kMostSamples = 64;

  // Adaptive bins may have no samples, or fewer than none, which makes no room for more bins.
  static bool hold(const AxisSamples<T>& samples) {
    return samples.take == Take::mean && samples.pooled <= kMostSamples && samples.grid <= kMostSamples &&
        samples.grid * samples.pooled <= kMostSamples;
  }

  // Taps of rows times taps of columns, at most, for all bins.
  static int64_t products(const AxisSamples<T>& rows, const AxisSamples<T>& columns) {
    return 4 * rows.grid * rows.pooled * columns.grid * columns.pooled;
  }

  // The same of any RoI; 0 where some may have too many.
  static int64_t products_of_any(const Geometry& geometry) {
    const int64_t grid = geometry.sampling_ratio, height = geometry.pooled.height, width = geometry.pooled.width;
    const bool held = geometry.take == Take::mean && grid > 0 && !geometry.is_volume() &&
        grid * std::max(height, width) <= kMostSamples;
    return held ? 4 * grid * height * grid * width : 0;
  }

  // The samples of the bins, with so many elements from one cell to the next.
  FewTaps(const AxisSamples<T>& samples, int64_t pitch) : bins(samples.pooled) {
    if (samples.grid == 1) {
      take_one_each(samples);
    } else {
      merge(samples);
    }
    for (int64_t tap = 0; tap < begin[bins]; ++tap) {
      offset[tap] *= pitch;
    }
  }

  // Whether any of the cells that are read lie from element `low` on and before `high`.
  bool reach(int64_t low, int64_t high) const {
    bool any = false;
    for (int64_t tap = 0; tap < begin[bins]; ++tap) {
      any |= offset[tap] >= low && offset[tap] < high;
    }
    return any;
  }

  Sparse<T> matrix() const { return {bins, begin, offset, weight}; }

  T on_map, total;  // samples

 private:
  int64_t bins;
  int64_t begin[kMostSamples + 1], offset[2 * kMostSamples + 1];
  double sums[2 * kMostSamples + 1];
  T weight[2 * kMostSamples];

  void take_one_each(const AxisSamples<T>& samples) {
    const T into_bin = samples.into_bin(0);
    int64_t taps = 0, count = 0;
    begin[0] = 0;
    for (int64_t p = 0; p < bins; ++p) {
      const T position = samples.beginning(p) + into_bin;
      if (is_on_map(position, samples.extent)) {
        const Bilinear<T> sample = bilinear(position, samples.extent);
        offset[taps] = sample.low;
        weight[taps] = static_cast<T>(1.0 - static_cast<double>(sample.fraction));
        offset[taps + 1] = sample.high;
        weight[taps + 1] = sample.fraction;
        taps += 1 + (sample.high > sample.low);
        ++count;
      }
      begin[p + 1] = taps;
    }
    on_map = static_cast<T>(count);
    total = static_cast<T>(bins);
  }

  void merge(const AxisSamples<T>& samples) {
    const int64_t all = std::max<int64_t>(samples.grid, 0) * bins;
    std::fill_n(sums, 2 * all + 1, 0.0);
    on_map = static_cast<T>(merge_samples(samples, begin, offset, sums));
    total = static_cast<T>(std::max<int64_t>(all, 1));
    for (int64_t tap = 0; tap < begin[bins]; ++tap) {
      weight[tap] = static_cast<T>(sums[tap] / static_cast<double>(samples.grid));
    }
  }
};

}  // namespace roialign
