// From gradients to the weights of a RoI's taps to the gradient of its box.
#pragma once

#include "roi.h"

namespace roialign {

// How the result changes with where a RoI starts and with its size, along one axis.
struct AxisGradient {
  double start = 0;
  double size = 0;
};

// `of_taps` is the gradient to each tap's weight, `cell_of` the cell that it reads.
template <typename T, typename CellOf>
AxisGradient differentiate(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps,
    bool widen) {
  const auto value_at = [&](int64_t bin, int64_t cell) {
    int64_t low = taps.begin[bin], high = taps.begin[bin + 1] - 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      cell_of(middle) < cell ? low = middle + 1 : high = middle;
    }
    return of_taps[low];
  };
  const double grid = static_cast<double>(samples.grid), pooled = static_cast<double>(samples.pooled);
  AxisGradient gradient;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    const auto [first, last] = samples.run_on_map(bin);
    for (int64_t i = first; i < last; ++i) {
      const Bilinear<T> sample = bilinear(samples.position(bin, i), samples.extent);
      if (sample.free) {
        const double by_position = (value_at(bin, sample.high) - value_at(bin, sample.low)) / grid;
        gradient.start += by_position;
        gradient.size += by_position * (static_cast<double>(bin) + (static_cast<double>(i) + 0.5) / grid) / pooled;
      }
    }
  }
  if (widen && !(samples.bin * static_cast<T>(samples.pooled) > T(1))) {
    gradient.size = 0;  // widened to one cell, whatever the box's size
  }
  return gradient;
}

// A RoI's gradient from one block of channels: rows, then columns.
struct BoxGradient {
  AxisGradient rows, columns;
};

// The five numbers of a box's gradient; the image index gets none.
template <typename T>
void write(const BoxGradient& sum, const Geometry& geometry, T* to) {
  to[0] = T(0);
  to[1] = static_cast<T>((sum.columns.start - sum.columns.size) * geometry.columns.scale);
  to[2] = static_cast<T>((sum.rows.start - sum.rows.size) * geometry.rows.scale);
  to[3] = static_cast<T>(sum.columns.size * geometry.columns.scale);
  to[4] = static_cast<T>(sum.rows.size * geometry.rows.scale);
}

}  // namespace roialign
