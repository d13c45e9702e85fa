// The inner loops of RoIAlign's gradient to the boxes, compiled once for each instruction set.
//
// A box moves the weights Ay and Ax of out = Ay * F * Ax^T. The gradient to Ax[q, x] is the sum over
// channels and rows of bins of grad[p, q] * (Ay * F)[p, x], that to Ay[p, y] likewise; what moves the
// weights is left to the caller, who needs it once for each RoI.
#pragma once

#include "products.h"

namespace roialign {
namespace {

// sums[tap of a column] += (Ay * F)^T * grad, at the slots that the column's taps read.
template <int L, typename T>
inline void correlate_columns(
    const RoiPlan<T>& plan, const T* combined, const T* upstream, PooledSize pooled, T* spread, double* sums) {
  const Sparse<T>& columns = plan.columns;
  const int64_t pitch = plan.pieces * L;
  for (int64_t q = 0; q < pooled.width; ++q) {
    const int64_t first = columns.begin[q], last = columns.begin[q + 1];
    if (first == last) {
      continue;
    }
    for (int64_t piece = columns.index[first] / L; piece <= columns.index[last - 1] / L; ++piece) {
      Vector<T, L> sum = {};
      for (int64_t p = 0; p < pooled.height; ++p) {
        sum += upstream[p * pooled.width + q] * load<L>(combined + p * pitch + piece * L);
      }
      store<L>(spread + piece * L, sum);
    }
    for (int64_t tap = first; tap < last; ++tap) {
      sums[tap] += spread[columns.index[tap]];
    }
  }
}

// sums[tap of a row of bins] += grad * (F * Ax^T)^T, at the rows that its taps read.
template <typename T>
inline void correlate_rows(
    const RoiPlan<T>& plan, const T* across, const T* upstream, PooledSize pooled, double* sums) {
  for (int64_t p = 0; p < pooled.height; ++p) {
    int64_t row = 0;
    for (int64_t tap = plan.rows.begin[p]; tap < plan.rows.begin[p + 1]; ++tap) {
      while (plan.row_offsets[row] != plan.rows.index[tap]) {
        ++row;
      }
      T sum = 0;
      for (int64_t q = 0; q < pooled.width; ++q) {
        sum += upstream[p * pooled.width + q] * across[row * pooled.width + q];
      }
      sums[tap] += sum;
    }
  }
}

template <int L, typename scalar_t, typename T>
void correlate_planes(const RoiPlan<T>& plan, const CorrelateCall<scalar_t>& call) {
  const PooledSize pooled = call.pooled;
  const int64_t pitch = plan.pieces * L;
  T* combined = static_cast<T*>(call.scratch);
  T* rows = combined + pooled.height * pitch;
  T* across = rows + plan.rows_read * pitch;
  T* room = across + plan.rows_read * pooled.width;
  T* spread = room + pooled.cells();
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* map = call.map + channel * call.map_channel_stride;
    const T* upstream = read_rows<L>(
        call.grad + channel * call.channel_stride, call.row_stride, call.column_stride, pooled.height,
        pooled.width, room);
    for (int64_t bin = 0; bin < pooled.height; ++bin) {
      combine_sparse<L>(plan, bin, map, call.lanes, combined + bin * pitch);
    }
    correlate_columns<L>(plan, combined, upstream, pooled, spread, call.of_columns);
    for (int64_t row = 0; row < plan.rows_read; ++row) {
      for (int64_t piece = 0; piece < plan.pieces; ++piece) {
        const scalar_t* cells = map + plan.row_offsets[row] + plan.starts[piece];
        store<L>(rows + row * pitch + piece * L, load_cells<L>(cells, call.lanes));
      }
    }
    if (!multiply<L>(plan.column_band, rows, pitch, plan.rows_read, across, pooled.width)) {
      for (int64_t row = 0; row < plan.rows_read; ++row) {
        multiply_sparse(plan.columns, rows + row * pitch, across + row * pooled.width);
      }
    }
    correlate_rows(plan, across, upstream, pooled, call.of_rows);
  }
}

}  // namespace
}  // namespace roialign
