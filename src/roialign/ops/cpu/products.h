// Products with the matrices of a RoI's rows and columns, which forward and backward are made of.
//
// A plane's result is Ay * F * Ax^T. A matrix comes in two forms. The sparse form is exact. The band
// multiplies by zero what a bin does not read, a vector at a time and without branches; that is right
// as long as all is finite, and where it is not the sparse form is used instead.
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

// Planes between the one that is worked on and the one whose cells are fetched: RoIs lie at random
// places, which no processor foresees.
constexpr int64_t kPlanesAhead = 2;

// Fetches the cells of a plane that a RoI reads.
template <int L, typename scalar_t, typename T>
inline void prefetch(const RoiPlan<T>& plan, const scalar_t* plane, int64_t lanes) {
  for (int64_t row = 0; row < plan.rows_read; ++row) {
    for (int64_t piece = 0; piece < plan.pieces; ++piece) {
      const scalar_t* cells = plane + plan.row_offsets[row] + plan.starts[piece];
      __builtin_prefetch(cells);
      __builtin_prefetch(cells + lanes - 1);
    }
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

// sum + a * b, rounded once where the instruction set can, as with vectors: what both forms of a matrix give is then
// the same to the bit. Compilers left to themselves multiply some taps as a vector and add them one by one.
template <typename T>
inline T multiply_add(T a, T b, T sum) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return sizeof(T) == sizeof(float) ? __builtin_fmaf(a, b, sum) : __builtin_fma(a, b, sum);
#else
  return sum + a * b;
#endif
}

template <typename scalar_t, typename T>
inline void multiply_sparse(const Sparse<T>& columns, const T* in, scalar_t* out) {
  for (int64_t bin = 0; bin < columns.rows; ++bin) {
    T sum = 0;
    for (int64_t tap = columns.begin[bin]; tap < columns.begin[bin + 1]; ++tap) {
      sum = multiply_add(columns.weight[tap], in[columns.index[tap]], sum);
    }
    narrow(sum, out + bin);
  }
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

}  // namespace
}  // namespace roialign
