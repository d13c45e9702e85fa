// The inner loops of RoIAlign backward, compiled once for each instruction set: the forward's products
// in reverse order, with the same matrices transposed.
#pragma once

#include "products.h"

namespace roialign {
namespace {

// spread[bin, slots] = upstream[bin] * columns, where a band would multiply by what is not finite.
template <typename T>
inline void spread_sparse(const Sparse<T>& columns, const T* upstream, int64_t bins, T* spread, int64_t pitch) {
  for (int64_t slot = 0; slot < bins * pitch; ++slot) {
    spread[slot] = 0;
  }
  for (int64_t bin = 0; bin < bins; ++bin) {
    for (int64_t column = 0; column < columns.rows; ++column) {
      const T value = upstream[bin * columns.rows + column];
      for (int64_t tap = columns.begin[column]; tap < columns.begin[column + 1]; ++tap) {
        spread[bin * pitch + columns.index[tap]] += columns.weight[tap] * value;
      }
    }
  }
}

// Adds the spread rows of bins [first, first + bins) to rows [top, bottom) of the map.
template <int L, typename T>
inline void add_sparse(
    const RoiPlan<T>& plan, int64_t lanes, int64_t first, int64_t bins, const T* spread, T* plane, int64_t top,
    int64_t bottom) {
  const int64_t pitch = plan.pieces * L;
  for (int64_t row = 0; row < plan.rows_read; ++row) {
    if (plan.row_offsets[row] < top || plan.row_offsets[row] >= bottom) {
      continue;
    }
    for (int64_t piece = 0; piece < plan.pieces; ++piece) {
      T* cells = plane + plan.row_offsets[row] - top + plan.starts[piece];
      Vector<T, L> sum = load_cells<L>(cells, lanes);
      for (int64_t tap = plan.rows.begin[row]; tap < plan.rows.begin[row + 1]; ++tap) {
        const int64_t bin = plan.rows.index[tap] - first;
        if (bin >= 0 && bin < bins) {
          sum += plan.rows.weight[tap] * load<L>(spread + bin * pitch + piece * L);
        }
      }
      lanes == L ? store<L>(cells, sum) : store_first<L>(cells, sum, lanes);
    }
  }
}

// The same for R rows of the map from `row` on, all bins and all of the map.
template <int R, int L, typename T>
inline void add_dense_rows(
    const RoiPlan<T>& plan, int64_t row, int64_t lanes, const T* spread, T* plane) {
  const Band<T>& band = plan.row_band;
  const int64_t group = row / kRowLanes;
  const int64_t pitch = plan.pieces * L;
  for (int64_t piece = 0; piece < plan.pieces; ++piece) {
    Vector<T, L> sums[R];
    for (int r = 0; r < R; ++r) {
      sums[r] = load_cells<L>(plane + plan.row_offsets[row + r] + plan.starts[piece], lanes);
    }
    for (int64_t i = band.begin[group]; i < band.begin[group + 1]; ++i) {
      const Vector<T, L> values = load<L>(spread + band.input[i] * pitch + piece * L);
      for (int r = 0; r < R; ++r) {
        sums[r] += band.weight[i * kRowLanes + r] * values;
      }
    }
    for (int r = 0; r < R; ++r) {
      T* cells = plane + plan.row_offsets[row + r] + plan.starts[piece];
      lanes == L ? store<L>(cells, sums[r]) : store_first<L>(cells, sums[r], lanes);
    }
  }
}

template <int L, typename T>
inline void add_dense(const RoiPlan<T>& plan, int64_t lanes, const T* spread, T* plane) {
  int64_t row = 0;
  for (; row + kRowLanes <= plan.rows_read; row += kRowLanes) {
    add_dense_rows<kRowLanes, L>(plan, row, lanes, spread, plane);
  }
  switch (plan.rows_read - row) {
    case 3: add_dense_rows<3, L>(plan, row, lanes, spread, plane); break;
    case 2: add_dense_rows<2, L>(plan, row, lanes, spread, plane); break;
    case 1: add_dense_rows<1, L>(plan, row, lanes, spread, plane); break;
  }
}

// Backward: adds the gradient of one RoI to rows [top, bottom) of the planes of its image.
template <int L, typename scalar_t, typename T>
void scatter_planes(const RoiPlan<T>& plan, const ScatterCall<scalar_t>& call) {
  if (plan.rows_read == 0 || plan.row_offsets[0] >= call.bottom ||
      plan.row_offsets[plan.rows_read - 1] < call.top) {
    return;
  }
  const int64_t height = call.pooled.height, width = call.pooled.width;
  const int64_t pitch = plan.pieces * L;
  const bool whole = call.bins_at_once >= height && plan.row_offsets[0] >= call.top &&
      plan.row_offsets[plan.rows_read - 1] < call.bottom;
  T* spread = static_cast<T*>(call.scratch);
  T* room = spread + call.bins_at_once * pitch;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* grad = call.grad + channel * call.channel_stride;
    T* plane = call.planes + channel * call.plane_size;
    for (int64_t first = 0; first < height; first += call.bins_at_once) {
      const int64_t bins = smaller(call.bins_at_once, height - first);
      const T* upstream =
          read_rows<L>(grad + first * call.row_stride, call.row_stride, call.column_stride, bins, width, room);
      const bool finite = multiply<L>(plan.column_band, upstream, width, bins, spread, pitch);
      if (!finite) {
        spread_sparse(plan.columns, upstream, bins, spread, pitch);
      }
      if (finite && whole && plan.row_band.groups > 0) {
        add_dense<L>(plan, call.lanes, spread, plane - call.top);
      } else {
        add_sparse<L>(plan, call.lanes, first, bins, spread, plane, call.top, call.bottom);
      }
    }
  }
}

// The same for few taps: `rows` and `columns` are bins from offsets.
template <typename scalar_t, typename T>
void scatter_taps(const Sparse<T>& rows, const Sparse<T>& columns, const ScatterCall<scalar_t>& call) {
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* grad = call.grad + channel * call.channel_stride;
    T* plane = call.planes + channel * call.plane_size;
    for (int64_t p = 0; p < rows.rows; ++p) {
      for (int64_t q = 0; q < columns.rows; ++q) {
        const T upstream = widen(grad[p * call.row_stride + q * call.column_stride]);
        for (int64_t tap = columns.begin[q]; tap < columns.begin[q + 1]; ++tap) {
          const T spread = columns.weight[tap] * upstream;
          for (int64_t row = rows.begin[p]; row < rows.begin[p + 1]; ++row) {
            if (rows.index[row] >= call.top && rows.index[row] < call.bottom) {
              T& cell = plane[rows.index[row] - call.top + columns.index[tap]];
              cell = multiply_add(rows.weight[row], spread, cell);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace roialign
