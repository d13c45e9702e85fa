// The inner loops of ps_roi_align and ps_roi_pool, compiled once for each instruction set.
//
// Every bin reads a plane of its own: its value is row weights * cells * column weights. Cells are taken by windows of
// kWindow rows and columns, with zeros for weights where the bin does not read; where the result is not finite
// the bin is done again with its own cells alone, so that infinity times zero never shows.
#pragma once

#include "products.h"

namespace roialign {
namespace {

template <typename T>
inline bool is_finite(T value) {
  return value - value == 0;
}

constexpr int64_t kRoisAhead = 8;  // of the one that is worked on, whose gradient is fetched

// kWindow rows of as many cells, added up with the weights of the rows.
template <typename scalar_t, typename T>
inline Vector<T, kWindow> combine_window(const T* row_weights, const scalar_t* cells, int64_t row_pitch) {
  Vector<T, kWindow> sums[2] = {};
  for (int i = 0; i < kWindow; ++i) {
    sums[i % 2] += row_weights[i] * load<kWindow>(cells + i * row_pitch);
  }
  return sums[0] + sums[1];
}

// Lane i: the sum of values[i].
template <typename V>
inline V sum_each(const V (&values)[kWindow]) {
  const auto halves = [](V a, V b) {
    return V{a[0], b[0], a[1], b[1]} + V{a[2], b[2], a[3], b[3]};
  };
  const V first = halves(values[0], values[1]), second = halves(values[2], values[3]);
  return V{first[0], first[1], second[0], second[1]} + V{first[2], first[3], second[2], second[3]};
}

template <typename scalar_t, typename T>
inline T pool_taps(
    const BlockTaps<T>& rows, int64_t row_bin, const BlockTaps<T>& columns, int64_t column_bin, const scalar_t* plane,
    int64_t row_pitch, int64_t column_pitch) {
  T sum = 0;
  for (int64_t y = rows.begin[row_bin]; y < rows.begin[row_bin + 1]; ++y) {
    const scalar_t* row = plane + rows.cell[y] * row_pitch;
    T across = 0;
    for (int64_t x = columns.begin[column_bin]; x < columns.begin[column_bin + 1]; ++x) {
      across += columns.weight[x] * widen(row[columns.cell[x] * column_pitch]);
    }
    sum += rows.weight[y] * across;
  }
  return sum;
}

// A bin by its windows; of no windows it is NaN.
template <typename scalar_t, typename T>
inline T pool_windows(
    const BlockTaps<T>& rows, int64_t row_bin, const BlockTaps<T>& columns, int64_t column_bin, const scalar_t* plane,
    int64_t row_pitch) {
  const T* row_weights = rows.window_weight + rows.first_weight[row_bin];
  const T* column_weights = columns.window_weight + columns.first_weight[column_bin];
  const scalar_t* cells = plane + rows.start[row_bin] * row_pitch + columns.start[column_bin];
  if (rows.windows[row_bin] == 0 || columns.windows[column_bin] == 0) {
    return __builtin_nan("");
  }
  Vector<T, kWindow> sums = {};
  for (int64_t y = 0; y < rows.windows[row_bin]; ++y) {
    for (int64_t x = 0; x < columns.windows[column_bin]; ++x) {
      sums += load<kWindow>(column_weights + x * kWindow) *
          combine_window(row_weights + y * kWindow, cells + (y * row_pitch + x) * kWindow, row_pitch);
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Bins of one window each, kWindow bins at a time. Returns whether all came out finite.
template <typename scalar_t, typename T>
inline bool pool_small_bins(
    const T* row_weights, const int64_t* starts, const T* column_weights, const scalar_t* cells, int64_t plane_stride,
    int64_t row_pitch, int64_t bins, scalar_t* output) {
  Vector<T, kWindow> probe = {};
  for (int64_t q = 0; q < bins; q += kWindow) {
    const int64_t first = bins - q < kWindow && bins >= kWindow ? bins - kWindow : q;  // some twice, but a whole vector
    Vector<T, kWindow> sums[kWindow];
    for (int i = 0; i < kWindow; ++i) {
      const int64_t bin = smaller(first + i, bins - 1);
      sums[i] = load<kWindow>(column_weights + bin * kWindow) *
          combine_window(row_weights, cells + bin * plane_stride + starts[bin], row_pitch);
    }
    const Vector<T, kWindow> values = sum_each(sums);
    if (bins >= kWindow) {
      store<kWindow>(output + first, values);
    } else {
      store_first<kWindow>(output, values, bins);
    }
    probe += values * T(0);
  }
  return (probe[0] + probe[1]) + (probe[2] + probe[3]) == 0;
}

// One row of bins of RoIs [begin, end): each bin from the plane after that of the bin before it.
template <typename scalar_t, typename T>
void pool_own_planes(const TapBlock<T>& block, int64_t begin, int64_t end, const OwnPlanesCall<scalar_t>& call) {
  const BlockTaps<T>&rows = block.rows, &columns = block.columns;
  for (int64_t k = begin; k < end; ++k) {
    scalar_t* later = call.output + block.row[smaller(k + kRoisAhead, end - 1)] * call.output_stride;
    __builtin_prefetch(later, 1);
    __builtin_prefetch(later + columns.bins - 1, 1);
    const int64_t row_bin = k * rows.bins + call.bin_row, first = k * columns.bins;
    const scalar_t* map = call.map + block.image[k] * call.image_stride;
    scalar_t* output = call.output + block.row[k] * call.output_stride;
    const bool by_windows = call.column_pitch == 1, small = by_windows && block.small[k];
    if (small && pool_small_bins(
                     rows.window_weight + rows.first_weight[row_bin], columns.start + first,
                     columns.window_weight + columns.first_weight[first], map + rows.start[row_bin] * call.row_pitch,
                     call.plane_stride, call.row_pitch, columns.bins, output)) {
      continue;
    }
    for (int64_t q = 0; q < columns.bins; ++q) {
      const scalar_t* plane = map + q * call.plane_stride;
      if (by_windows && !small) {
        narrow(pool_windows(rows, row_bin, columns, first + q, plane, call.row_pitch), output + q);
      }
      if (!by_windows || !is_finite(widen(output[q]))) {
        narrow(pool_taps(rows, row_bin, columns, first + q, plane, call.row_pitch, call.column_pitch), output + q);
      }
    }
  }
}

// Adds `upstream` to rows [top, bottom) of a plane, which begins with row `top`, cell by cell; in the order of
// multiplications that windows have, for it is up to the number of threads which rows a plane holds.
template <typename T>
inline void scatter_taps(
    const BlockTaps<T>& rows, int64_t row_bin, const BlockTaps<T>& columns, int64_t column_bin, T upstream, T* plane,
    int64_t width, int64_t top, int64_t bottom) {
  for (int64_t x = columns.begin[column_bin]; x < columns.begin[column_bin + 1]; ++x) {
    T* column = plane + columns.cell[x];
    const T value = upstream * columns.weight[x];
    for (int64_t y = rows.begin[row_bin]; y < rows.begin[row_bin + 1]; ++y) {
      if (rows.cell[y] >= top && rows.cell[y] < bottom) {
        column[(rows.cell[y] - top) * width] += rows.weight[y] * value;
      }
    }
  }
}

// The same by windows, all of whose rows the plane holds.
template <typename T>
inline void scatter_windows(
    const T* row_weights, int64_t windows_down, const T* column_weights, int64_t windows_across, T upstream, T* cells,
    int64_t width) {
  for (int64_t x = 0; x < windows_across; ++x) {
    const Vector<T, kWindow> values = upstream * load<kWindow>(column_weights + x * kWindow);
    for (int64_t y = 0; y < windows_down * kWindow; ++y) {
      T* to = cells + y * width + x * kWindow;
      store<kWindow>(to, load<kWindow>(to) + row_weights[y] * values);
    }
  }
}

// Bins of one window each, whose rows begin at `cells`, up to the first whose gradient is not finite. Returns how many.
template <typename scalar_t, typename T>
inline int64_t scatter_small_bins(
    const T* row_weights, const int64_t* starts, const T* column_weights, const scalar_t* grad, int64_t column_stride,
    int64_t bins, T* cells, int64_t plane_size, int64_t width) {
  T down[kWindow];
  __builtin_memcpy(down, row_weights, sizeof down);
  for (int64_t bin = 0; bin < bins; ++bin) {
    const T upstream = widen(grad[bin * column_stride]);
    if (!is_finite(upstream)) {
      return bin;
    }
    scatter_windows<T>(
        down, 1, column_weights + bin * kWindow, 1, upstream, cells + bin * plane_size + starts[bin], width);
  }
  return bins;
}

// Adds the gradient of some neighbouring bins of each RoI to rows [top, bottom) of the planes that the bins read.
template <typename scalar_t, typename T>
void scatter_own_planes(const TapBlock<T>& block, const OwnPlanesScatterCall<scalar_t>& call) {
  const BlockTaps<T>&rows = block.rows, &columns = block.columns;
  for (int64_t k = 0; k < block.rois; ++k) {
    const scalar_t* later = call.grad + block.row[smaller(k + kRoisAhead, block.rois - 1)] * call.grad_stride;
    __builtin_prefetch(later);
    __builtin_prefetch(later + (call.bins - 1) * call.column_stride);
    const int64_t row_bin = k * rows.bins + call.bin_row, first = k * columns.bins + call.first_bin;
    const int64_t start = rows.start[row_bin], windows = rows.windows[row_bin];
    const bool holds_rows = start >= call.top && start + windows * kWindow <= call.bottom;
    const T* row_weights = rows.window_weight + rows.first_weight[row_bin];
    const scalar_t* grad = call.grad + block.row[k] * call.grad_stride;
    T* planes = call.planes + block.image[k] * call.image_pitch;
    T* cells = planes + (start - call.top) * call.width;
    int64_t done = 0;
    if (holds_rows && block.small[k]) {
      done = scatter_small_bins(
          row_weights, columns.start + first, columns.window_weight + columns.first_weight[first], grad,
          call.column_stride, call.bins, cells, call.plane_size, call.width);
    }
    for (int64_t q = done; q < call.bins; ++q) {
      const T upstream = widen(grad[q * call.column_stride]);
      if (holds_rows && windows * columns.windows[first + q] > 0 && is_finite(upstream)) {
        scatter_windows<T>(
            row_weights, windows, columns.window_weight + columns.first_weight[first + q], columns.windows[first + q],
            upstream, cells + q * call.plane_size + columns.start[first + q], call.width);
      } else {
        scatter_taps(
            rows, row_bin, columns, first + q, upstream, planes + q * call.plane_size, call.width, call.top,
            call.bottom);
      }
    }
  }
}

}  // namespace
}  // namespace roialign
