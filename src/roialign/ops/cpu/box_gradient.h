// From gradients to the weights of a RoI's taps to the gradient of its box.
#pragma once

#include "roi.h"

namespace roialign {

// How the result changes with where a RoI starts and with its size, along one axis.
struct AxisGradient {
  double start = 0;
  double size = 0;
};

// The gradient to the weight with which a bin reads a cell; `of_taps` has it for each tap, `cell_of` a tap's cell.
template <typename T, typename CellOf>
double value_at(const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps, int64_t bin, int64_t cell) {
  int64_t low = taps.begin[bin], high = taps.begin[bin + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    cell_of(middle) < cell ? low = middle + 1 : high = middle;
  }
  return low < taps.begin[bin + 1] && cell_of(low) == cell ? of_taps[low] : 0.0;  // 0: off the map
}

template <typename T, typename CellOf>
AxisGradient differentiate_samples(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps) {
  const double grid = static_cast<double>(samples.grid), pooled = static_cast<double>(samples.pooled);
  AxisGradient gradient;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    const auto [first, last] = samples.run_on_map(bin);
    for (int64_t i = first; i < last; ++i) {
      const Bilinear<T> sample = bilinear(samples.position(bin, i), samples.extent);
      if (sample.free) {
        const double step =
            value_at(taps, cell_of, of_taps, bin, sample.high) - value_at(taps, cell_of, of_taps, bin, sample.low);
        const double by_position = step / grid;
        gradient.start += by_position;
        gradient.size += by_position * (static_cast<double>(bin) + (static_cast<double>(i) + 0.5) / grid) / pooled;
      }
    }
  }
  return gradient;
}

// A bin's mean changes with its edges by how far the surface there is from the mean.
template <typename T, typename CellOf>
AxisGradient differentiate_integrals(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps) {
  const double pooled = static_cast<double>(samples.pooled);
  AxisGradient gradient;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    if (taps.begin[bin] == taps.begin[bin + 1]) {
      continue;
    }
    const auto surface_at = [&](double edge) {
      if (!(edge > -1.0 && edge < static_cast<double>(samples.extent))) {
        return 0.0;
      }
      const Bilinear<double> at = bilinear_to_zero(edge, samples.extent);
      return (1.0 - at.fraction) * value_at(taps, cell_of, of_taps, bin, at.low) +
          at.fraction * value_at(taps, cell_of, of_taps, bin, at.high);
    };
    double mean = 0;
    for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
      mean += static_cast<double>(taps.weight[tap]) * of_taps[tap];
    }
    const double begin = samples.edge(bin), end = samples.edge(bin + 1);
    const double by_begin = (mean - surface_at(begin)) / (end - begin);
    const double by_end = (surface_at(end) - mean) / (end - begin);
    gradient.start += by_begin + by_end;
    gradient.size +=
        (by_begin * static_cast<double>(bin) + by_end * static_cast<double>(bin + 1)) / pooled;
  }
  return gradient;
}

template <typename T, typename CellOf>
AxisGradient differentiate(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps,
    bool widen) {
  if (samples.take == Take::integral) {
    return differentiate_integrals(samples, taps, cell_of, of_taps);
  }
  AxisGradient gradient = differentiate_samples(samples, taps, cell_of, of_taps);
  if (widen && !(samples.bin * static_cast<T>(samples.pooled) > T(1))) {
    gradient.size = 0;  // widened to one cell, whatever the box's size
  }
  return gradient;
}

// A RoI's gradient from one block of channels, along each axis.
struct BoxGradient {
  AxisGradient rows, columns, planes;
};

// The gradient of a box's numbers; the image index gets none.
template <typename T>
void write(const BoxGradient& sum, const Geometry& geometry, T* to) {
  const auto write_axis = [&](int64_t axis, const AxisGradient& of_axis, double scale) {
    to[1 + axis] = static_cast<T>((of_axis.start - of_axis.size) * scale);
    to[1 + axis + geometry.axes()] = static_cast<T>(of_axis.size * scale);
  };
  to[0] = T(0);
  write_axis(0, sum.columns, geometry.columns.scale);
  write_axis(1, sum.rows, geometry.rows.scale);
  if (geometry.is_volume()) {
    write_axis(2, sum.planes, geometry.planes.cells.scale);
  }
}

}  // namespace roialign
