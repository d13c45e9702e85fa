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
constexpr int kRowsAtOnce = 4;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// out[r, outputs of all groups] = in[r, inputs] * band, for R rows. Adds 0 * out to `probe`, which is
// then NaN where any of it is not finite.
template <int R, int L, typename T>
inline void multiply_rows(
    const Band<T>& band, const T* in, int64_t in_pitch, T* out, int64_t out_pitch, Vector<T, L>& probe) {
  for (int64_t group = 0; group < band.groups; ++group) {
    Vector<T, L> sums[R] = {};
    for (int64_t i = band.begin[group]; i < band.begin[group + 1]; ++i) {
      const Vector<T, L> weights = load<L>(band.weight + i * L);
      const T* inputs = in + band.input[i];
      for (int r = 0; r < R; ++r) {
        sums[r] += inputs[r * in_pitch] * weights;
      }
    }
    for (int r = 0; r < R; ++r) {
      store<L>(out + r * out_pitch + group * L, sums[r]);
      probe += sums[r] * T(0);
    }
  }
}

// All rows of `in`. The rows of a band of one group are written to the vector's end, over the
// beginning of the next row of `out`, which comes later.
template <int L, typename T>
inline bool multiply(const Band<T>& band, const T* in, int64_t in_pitch, int64_t rows, T* out, int64_t out_pitch) {
  Vector<T, L> probe = {};
  int64_t row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
    multiply_rows<kRowsAtOnce, L>(band, in + row * in_pitch, in_pitch, out + row * out_pitch, out_pitch, probe);
  }
  switch (rows - row) {
    case 3: multiply_rows<3, L>(band, in + row * in_pitch, in_pitch, out + row * out_pitch, out_pitch, probe); break;
    case 2: multiply_rows<2, L>(band, in + row * in_pitch, in_pitch, out + row * out_pitch, out_pitch, probe); break;
    case 1: multiply_rows<1, L>(band, in + row * in_pitch, in_pitch, out + row * out_pitch, out_pitch, probe); break;
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

// One row of bins from the rows of the map that it reads: out[piece, lane].
template <int L, typename scalar_t, typename T>
inline void combine_rows(
    const Sparse<T>& rows, int64_t bin, const scalar_t* plane, const RoiPlan<T>& plan, int64_t lanes, T* out) {
  for (int64_t piece = 0; piece < plan.pieces; ++piece) {
    const scalar_t* cells = plane + plan.starts[piece];
    Vector<T, L> sum = {};
    for (int64_t tap = rows.begin[bin]; tap < rows.begin[bin + 1]; ++tap) {
      const scalar_t* row = cells + rows.index[tap];
      sum += rows.weight[tap] * (lanes == L ? load<L>(row) : load_first<L>(row, lanes));
    }
    store<L>(out + piece * L, sum);
  }
}

template <typename T>
inline void multiply_sparse(const Sparse<T>& columns, const T* in, T* out) {
  for (int64_t bin = 0; bin < columns.rows; ++bin) {
    T sum = 0;
    for (int64_t tap = columns.begin[bin]; tap < columns.begin[bin + 1]; ++tap) {
      sum += columns.weight[tap] * in[columns.index[tap]];
    }
    out[bin] = sum;
  }
}

// Forward, for a map whose columns are neighbours in memory. B lanes of bins, L of cells.
template <int L, int B, typename scalar_t, typename T>
void pool_planes(const RoiPlan<T>& plan, const PoolCall<scalar_t>& call) {
  T* combined = static_cast<T*>(call.scratch);
  const int64_t pitch = plan.pieces * L;
  const int64_t width = call.pooled.width;
  const int64_t tile_pitch = plan.band.groups == 1 ? width : plan.band.groups * B;
  T* tile = combined + call.bins_at_once * pitch;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    scalar_t* output = call.output + channel * call.pooled.cells();
    for (int64_t first = 0; first < call.pooled.height; first += call.bins_at_once) {
      const int64_t bins = smaller(call.bins_at_once, call.pooled.height - first);
      for (int64_t bin = 0; bin < bins; ++bin) {
        combine_rows<L>(plan.rows, first + bin, plane, plan, call.lanes, combined + bin * pitch);
      }
      if (!multiply<B>(plan.band, combined, pitch, bins, tile, tile_pitch)) {
        for (int64_t bin = 0; bin < bins; ++bin) {
          multiply_sparse(plan.columns, combined + bin * pitch, tile + bin * tile_pitch);
        }
      }
      if (tile_pitch == width) {
        copy_narrow<L>(tile, bins * width, output + first * width);
      } else {
        for (int64_t bin = 0; bin < bins; ++bin) {
          copy_narrow<L>(tile + bin * tile_pitch, width, output + (first + bin) * width);
        }
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
        combine_rows<L>(plan.rows, first + bin, call.map + channel, plan, lanes, combined);
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

// Adds the spread rows of bins [first, first + bins) to the rows of the map that they read.
template <int L, typename scalar_t, typename T>
inline void add_rows(
    const RoiPlan<T>& plan, const ScatterCall<scalar_t>& call, int64_t first, int64_t bins, const T* spread, T* plane) {
  const int64_t pitch = plan.pieces * L;
  for (int64_t row = 0; row < plan.rows.rows; ++row) {
    const int64_t cell = plan.row_cells[row];
    if (cell < call.first_row || cell >= call.last_row) {
      continue;
    }
    for (int64_t piece = 0; piece < plan.pieces; ++piece) {
      T* cells = plane + (cell - call.first_row) * call.row_pitch + plan.starts[piece];
      Vector<T, L> sum = call.lanes == L ? load<L>(cells) : load_first<L>(cells, call.lanes);
      for (int64_t tap = plan.rows.begin[row]; tap < plan.rows.begin[row + 1]; ++tap) {
        const int64_t bin = plan.rows.index[tap] - first;
        if (bin >= 0 && bin < bins) {
          sum += plan.rows.weight[tap] * load<L>(spread + bin * pitch + piece * L);
        }
      }
      if (call.lanes == L) {
        store<L>(cells, sum);
      } else {
        store_first<L>(cells, sum, call.lanes);
      }
    }
  }
}

// Backward: adds the gradient of one RoI to the planes of its image.
template <int L, typename scalar_t, typename T>
void scatter_planes(const RoiPlan<T>& plan, const ScatterCall<scalar_t>& call) {
  const int64_t height = call.pooled.height, width = call.pooled.width;
  const int64_t pitch = plan.pieces * L;
  T* spread = static_cast<T*>(call.scratch);
  T* room = spread + call.bins_at_once * pitch;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* grad = call.grad + channel * call.strides[1];
    T* plane = call.planes + channel * call.plane_size;
    for (int64_t first = 0; first < height; first += call.bins_at_once) {
      const int64_t bins = smaller(call.bins_at_once, height - first);
      const T* upstream =
          read_rows<L>(grad + first * call.strides[2], call.strides[2], call.strides[3], bins, width, room);
      if (!multiply<L>(plan.band, upstream, width, bins, spread, pitch)) {
        spread_sparse(plan.columns, upstream, bins, spread, pitch);
      }
      add_rows<L>(plan, call, first, bins, spread, plane);
    }
  }
}

}  // namespace
}  // namespace roialign
