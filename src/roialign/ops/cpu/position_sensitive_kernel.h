// The inner loops of ps_roi_align and ps_roi_pool, compiled once for each instruction set.
//
// Every bin reads a plane of its own: its value is row weights * cells * column weights. Cells of a row are
// taken by windows of kWindow, with zeros for weights where the bin does not read; where the result is not finite the
// bin is done again with its own cells alone, so that infinity times zero never shows.
#pragma once

#include "products.h"

namespace roialign {
namespace {

template <typename T>
inline bool is_finite(T value) {
  return value - value == 0;
}

// kRowLanes taps of the rows, which are padded to whole groups of them.
template <typename scalar_t, typename T>
inline Vector<T, kWindow> combine_rows(
    const BlockTaps<T>& rows, int64_t begin, int64_t end, const scalar_t* cells, int64_t row_pitch) {
  Vector<T, kWindow> sums[2] = {};
  for (int64_t tap = begin; tap < end; tap += kRowLanes) {
    for (int i = 0; i < kRowLanes; ++i) {
      sums[i % 2] += rows.weight[tap + i] * load<kWindow>(cells + rows.cell[tap + i] * row_pitch);
    }
  }
  return sums[0] + sums[1];
}

template <typename scalar_t, typename T>
inline T pool_taps(
    const TapBlock<T>& block, int64_t row_bin, int64_t column_bin, const scalar_t* plane, int64_t row_pitch,
    int64_t column_pitch) {
  T sum = 0;
  for (int64_t y = block.rows.begin[row_bin]; y < block.rows.begin[row_bin + 1]; ++y) {
    if (y > block.rows.begin[row_bin] && block.rows.cell[y] == block.rows.cell[y - 1]) {
      break;  // padding
    }
    const scalar_t* row = plane + block.rows.cell[y] * row_pitch;
    T across = 0;
    for (int64_t x = block.columns.begin[column_bin]; x < block.columns.begin[column_bin + 1]; ++x) {
      across += block.columns.weight[x] * widen(row[block.columns.cell[x] * column_pitch]);
    }
    sum += block.rows.weight[y] * across;
  }
  return sum;
}

// One row of bins of RoIs [begin, end): each bin from the plane after that of the bin before it.
template <typename scalar_t, typename T>
void pool_own_planes(const TapBlock<T>& block, int64_t begin, int64_t end, const OwnPlanesCall<scalar_t>& call) {
  for (int64_t k = begin; k < end; ++k) {
    const int64_t row_bin = call.bin_row * block.rois + k;
    const int64_t first = block.rows.begin[row_bin], last = block.rows.begin[row_bin + 1];
    const scalar_t* plane = call.map + block.image[k] * call.image_stride;
    scalar_t* output = call.output + block.row[k] * call.output_stride;
    for (int64_t q = 0; q < call.bins; ++q, plane += call.plane_stride) {
      const int64_t column_bin = q * block.rois + k;
      const int64_t windows = call.column_pitch == 1 ? block.windows[column_bin] : 0;
      if (windows > 0) {
        const T* weights = block.weights + block.first_weight[column_bin];
        const scalar_t* cells = plane + block.starts[column_bin];
        Vector<T, kWindow> sums = {};
        for (int64_t window = 0; window < windows; ++window) {
          sums += load<kWindow>(weights + window * kWindow) *
              combine_rows(block.rows, first, last, cells + window * kWindow, call.row_pitch);
        }
        const T sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        if (is_finite(sum)) {
          narrow(sum, output + q);
          continue;
        }
      }
      narrow(pool_taps(block, row_bin, column_bin, plane, call.row_pitch, call.column_pitch), output + q);
    }
  }
}

template <typename T>
inline void scatter_taps(const BlockTaps<T>& columns, int64_t column_bin, T value, T* row) {
  for (int64_t x = columns.begin[column_bin]; x < columns.begin[column_bin + 1]; ++x) {
    row[columns.cell[x]] += columns.weight[x] * value;
  }
}

// Adds the gradient of one bin of each RoI to rows [top, bottom) of the plane that the bin reads.
template <typename scalar_t, typename T>
void scatter_own_plane(const TapBlock<T>& block, const OwnPlaneScatterCall<scalar_t>& call) {
  for (int64_t k = 0; k < block.rois; ++k) {
    const int64_t row_bin = call.bin_row * block.rois + k, column_bin = call.bin_column * block.rois + k;
    const int64_t first = block.rows.begin[row_bin], last = block.rows.begin[row_bin + 1];
    if (first == last || block.columns.begin[column_bin] == block.columns.begin[column_bin + 1]) {
      continue;
    }
    const T upstream = widen(call.grad[block.row[k] * call.grad_stride]);
    const int64_t windows = is_finite(upstream) ? block.windows[column_bin] : 0;
    const T* weights = block.weights + block.first_weight[column_bin];
    T* plane = call.plane + block.image[k] * call.image_pitch;
    for (int64_t y = first; y < last; ++y) {
      const int64_t cell = block.rows.cell[y];
      if (y > first && cell == block.rows.cell[y - 1]) {
        break;  // padding
      }
      if (cell < call.top || cell >= call.bottom) {
        continue;
      }
      T* row = plane + (cell - call.top) * call.width;
      const T value = upstream * block.rows.weight[y];
      if (windows == 0) {
        scatter_taps(block.columns, column_bin, value, row);
        continue;
      }
      T* cells = row + block.starts[column_bin];
      for (int64_t window = 0; window < windows; ++window, cells += kWindow) {
        store<kWindow>(cells, load<kWindow>(cells) + value * load<kWindow>(weights + window * kWindow));
      }
    }
  }
}

}  // namespace
}  // namespace roialign
