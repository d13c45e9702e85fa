// The inner loops of RoIAlign, compiled once for each instruction set.
//
// A plane's result is Ay * F * Ax^T. Rows are combined first, a vector of neighbouring cells at a
// time, and what comes out is then multiplied by the columns' matrix in its form for vectors. That
// form multiplies by zero what a bin does not read, which is right as long as all is finite: where
// it is not, the sparse form is used instead.
#pragma once

#include "kernels.h"
#include "vectors.h"

namespace roialign {
namespace {

// Rows that go through a band at once: independent sums, to hide the latency of one.
constexpr int kRowsAtOnce = 8;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// out[r, outputs of all groups] = in[r, inputs] * band, for R rows of `width` outputs. A row of less
// than a vector is written to the vector's end, over the beginning of the next row, which comes later,
// but not beyond `end`. Adds 0 * out to `probe`, which is then NaN where any of it is not finite.
template <int R, int L, typename scalar_t, typename T>
inline void multiply_rows(
    const Band<T>& band, const T* in, int64_t in_pitch, scalar_t* out, int64_t width, const scalar_t* end,
    Vector<T, L>& probe) {
  for (int64_t group = 0; group < band.groups; ++group) {
    Vector<T, L> sums[R] = {};
    for (int64_t i = band.begin[group]; i < band.begin[group + 1]; ++i) {
      const Vector<T, L> weights = load<L>(band.weight + i * L);
      const T* inputs = in + band.input[i];
      for (int r = 0; r < R; ++r) {
        sums[r] += inputs[r * in_pitch] * weights;
      }
    }
    const int64_t lanes = smaller(L, width - group * L);
    for (int r = 0; r < R; ++r) {
      scalar_t* to = out + r * width + group * L;
      if (lanes == L || (band.groups == 1 && end - to >= L)) {
        store<L>(to, sums[r]);
      } else {
        store_first<L>(to, sums[r], lanes);
      }
      probe += sums[r] * T(0);
    }
  }
}

template <int L, typename scalar_t, typename T>
inline bool multiply(const Band<T>& band, const T* in, int64_t in_pitch, int64_t rows, scalar_t* out, int64_t width) {
  const scalar_t* end = out + rows * width;
  Vector<T, L> probe = {};
  for (; rows >= kRowsAtOnce; rows -= kRowsAtOnce) {
    multiply_rows<kRowsAtOnce, L>(band, in, in_pitch, out, width, end, probe);
    in += kRowsAtOnce * in_pitch;
    out += kRowsAtOnce * width;
  }
  switch (rows) {
    case 7: multiply_rows<7, L>(band, in, in_pitch, out, width, end, probe); break;
    case 6: multiply_rows<6, L>(band, in, in_pitch, out, width, end, probe); break;
    case 5: multiply_rows<5, L>(band, in, in_pitch, out, width, end, probe); break;
    case 4: multiply_rows<4, L>(band, in, in_pitch, out, width, end, probe); break;
    case 3: multiply_rows<3, L>(band, in, in_pitch, out, width, end, probe); break;
    case 2: multiply_rows<2, L>(band, in, in_pitch, out, width, end, probe); break;
    case 1: multiply_rows<1, L>(band, in, in_pitch, out, width, end, probe); break;
  }
  return !any_nan(probe);
}

template <int L, typename scalar_t, typename T>
inline void copy_narrow(const T* from, int64_t count, scalar_t* to) {
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    store<L>(to + i, load<L>(from + i));
  }
  for (; i < count; ++i) {
    narrow(from[i], to + i);
  }
}

template <int L, typename scalar_t>
inline auto load_cells(const scalar_t* from, int64_t lanes) {
  return lanes == L ? load<L>(from) : load_first<L>(from, lanes);
}

// One row of bins from the rows of the map that it reads: out[piece, lane].
template <int L, typename scalar_t, typename T>
inline void combine_sparse(const RoiPlan<T>& plan, int64_t bin, const scalar_t* map, int64_t lanes, T* out) {
  for (int64_t piece = 0; piece < plan.pieces; ++piece) {
    const scalar_t* cells = map + plan.starts[piece];
    Vector<T, L> sum = {};
    for (int64_t tap = plan.rows.begin[bin]; tap < plan.rows.begin[bin + 1]; ++tap) {
      sum += plan.rows.weight[tap] * load_cells<L>(cells + plan.rows.index[tap], lanes);
    }
    store<L>(out + piece * L, sum);
  }
}

// kRowLanes rows of bins at once; those beyond the last come out as zeros.
template <int L, typename scalar_t, typename T>
inline void combine_dense(const RoiPlan<T>& plan, int64_t group, const scalar_t* map, int64_t lanes, T* out) {
  const Band<T>& band = plan.row_band;
  const int64_t pitch = plan.pieces * L;
  for (int64_t piece = 0; piece < plan.pieces; ++piece) {
    const scalar_t* cells = map + plan.starts[piece];
    Vector<T, L> sums[kRowLanes] = {};
    for (int64_t i = band.begin[group]; i < band.begin[group + 1]; ++i) {
      const Vector<T, L> row = load_cells<L>(cells + band.input[i], lanes);
      for (int r = 0; r < kRowLanes; ++r) {
        sums[r] += band.weight[i * kRowLanes + r] * row;
      }
    }
    for (int r = 0; r < kRowLanes; ++r) {
      store<L>(out + r * pitch + piece * L, sums[r]);
    }
  }
}

template <typename scalar_t, typename T>
inline void multiply_sparse(const Sparse<T>& columns, const T* in, scalar_t* out) {
  for (int64_t bin = 0; bin < columns.rows; ++bin) {
    T sum = 0;
    for (int64_t tap = columns.begin[bin]; tap < columns.begin[bin + 1]; ++tap) {
      sum += columns.weight[tap] * in[columns.index[tap]];
    }
    narrow(sum, out + bin);
  }
}

// Forward, for a map whose columns are neighbours in memory. B lanes of bins, L of cells.
template <int L, int B, typename scalar_t, typename T>
void pool_planes(const RoiPlan<T>& plan, const PoolCall<scalar_t>& call) {
  T* combined = static_cast<T*>(call.scratch);
  const int64_t pitch = plan.pieces * L;
  const int64_t width = call.pooled.width;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    for (int64_t first = 0; first < call.pooled.height; first += call.bins_at_once) {
      const int64_t bins = smaller(call.bins_at_once, call.pooled.height - first);
      scalar_t* output = call.output + channel * call.pooled.cells() + first * width;
      if (plan.row_band.groups > 0) {
        for (int64_t bin = 0; bin < bins; bin += kRowLanes) {
          combine_dense<L>(plan, (first + bin) / kRowLanes, plane, call.lanes, combined + bin * pitch);
        }
        if (multiply<B>(plan.column_band, combined, pitch, bins, output, width)) {
          continue;
        }
      }
      for (int64_t bin = 0; bin < bins; ++bin) {
        combine_sparse<L>(plan, first + bin, plane, call.lanes, combined + bin * pitch);
      }
      if (multiply<B>(plan.column_band, combined, pitch, bins, output, width)) {
        continue;
      }
      for (int64_t bin = 0; bin < bins; ++bin) {
        multiply_sparse(plan.columns, combined + bin * pitch, output + bin * width);
      }
    }
  }
}

// Forward, for a map whose channels are neighbours in memory: the same sums, with channels as lanes.
template <int L, typename scalar_t, typename T>
void pool_channels(const RoiPlan<T>& plan, const PoolCall<scalar_t>& call) {
  T* combined = static_cast<T*>(call.scratch);
  T* tile = combined + plan.pieces * L;
  const int64_t width = call.pooled.width;
  for (int64_t channel = 0; channel < call.channels; channel += L) {
    const int64_t lanes = smaller(L, call.channels - channel);
    for (int64_t first = 0; first < call.pooled.height; first += call.bins_at_once) {
      const int64_t bins = smaller(call.bins_at_once, call.pooled.height - first);
      for (int64_t bin = 0; bin < bins; ++bin) {
        combine_sparse<L>(plan, first + bin, call.map + channel, lanes, combined);
        for (int64_t column = 0; column < width; ++column) {
          Vector<T, L> sum = {};
          for (int64_t tap = plan.columns.begin[column]; tap < plan.columns.begin[column + 1]; ++tap) {
            sum += plan.columns.weight[tap] * load<L>(combined + plan.columns.index[tap] * L);
          }
          store<L>(tile + (bin * width + column) * L, sum);
        }
      }
      for (int64_t lane = 0; lane < lanes; ++lane) {
        scalar_t* output = call.output + (channel + lane) * call.pooled.cells() + first * width;
        for (int64_t cell = 0; cell < bins * width; ++cell) {
          narrow(tile[cell * L + lane], output + cell);
        }
      }
    }
  }
}

// Rows of an upstream gradient in the type that is computed in: where they are, or copied to `room`.
template <int L, typename scalar_t, typename T>
inline const T* read_rows(
    const scalar_t* from, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t width, T* room) {
  if (column_stride == 1 && row_stride == width) {
    if constexpr (sizeof(scalar_t) == sizeof(T)) {
      return from;
    } else {
      int64_t i = 0;
      for (; i + L <= rows * width; i += L) {
        store<L>(room + i, load<L>(from + i));
      }
      for (; i < rows * width; ++i) {
        room[i] = widen(from[i]);
      }
      return room;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      room[row * width + column] = widen(from[row * row_stride + column * column_stride]);
    }
  }
  return room;
}

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
  if (plan.rows_read == 0) {
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

}  // namespace
}  // namespace roialign
