// The inner loops of roi_pool, compiled once for each instruction set.
//
// The largest value of a bin is found among its rows first, for all columns of the RoI at once, and then among its
// columns. Comparisons of vectors lose a NaN on the way; a sum of all that was read finds out, and the channel is
// then done again cell by cell.
#pragma once

#include "products.h"

namespace roialign {
namespace {

// What a search starts from. torchvision starts from the most negative float32, whatever the type (half types have it as
// minus infinity), and finds nothing where no cell is above that.
inline double lowest_of(double, bool legacy) { return legacy ? -__FLT_MAX__ : -__builtin_inf(); }
inline float lowest_of(float, bool legacy) { return legacy ? -__FLT_MAX__ : -__builtin_inff(); }
template <typename Narrow>
inline float lowest_of(Narrow, bool) {
  return -__builtin_inff();
}

template <typename T>
struct IndexOf {
  typedef int32_t type;
};
template <>
struct IndexOf<double> {
  typedef int64_t type;
};

// The first cell of the largest value in each bin of a plane, in row-major order; a NaN is larger than any number.
template <typename scalar_t>
inline void search_slowly(const MaxPlan& plan, const MaxCall<scalar_t>& call, int64_t channel) {
  const scalar_t* plane = call.map + channel * call.channel_stride;
  for (int64_t p = plan.top; p < plan.bottom; ++p) {
    for (int64_t q = plan.left; q < plan.right; ++q) {
      auto best = lowest_of(scalar_t{}, call.legacy);
      int64_t found = -1;
      for (int64_t j = 0; j < plan.rows_per_bin; ++j) {
        const int64_t row = plan.rows[(p - plan.top) * plan.rows_per_bin + j];
        for (int64_t x = plan.begin[q - plan.left]; x < plan.end[q - plan.left]; ++x) {
          const int64_t column = plan.start + x;
          const auto value = widen(plane[row * call.row_pitch + column * call.column_pitch]);
          const bool first_nan = value != value && best == best;
          if (value > best || (!call.legacy && (found < 0 || first_nan))) {
            best = value;
            found = row * call.width + column;
          }
        }
      }
      const int64_t bin = channel * call.pooled.cells() + p * call.pooled.width + q;
      narrow(best, call.output + bin);
      if (call.maxima != nullptr) {
        call.maxima[bin] = static_cast<int32_t>(found);
      }
    }
  }
}

// Zeros, and no cell, in the bins that hold none of the map.
template <typename scalar_t>
inline void clear_empty(const MaxPlan& plan, const MaxCall<scalar_t>& call) {
  if (plan.top == 0 && plan.left == 0 && plan.bottom == call.pooled.height && plan.right == call.pooled.width) {
    return;
  }
  for (int64_t bin = 0; bin < call.channels * call.pooled.cells(); ++bin) {
    call.output[bin] = scalar_t{};
    if (call.maxima != nullptr) {
      call.maxima[bin] = -1;
    }
  }
}

// Fetches the rows of a plane that a RoI reads.
template <int L, typename scalar_t>
inline void prefetch(const MaxPlan& plan, const MaxCall<scalar_t>& call, const scalar_t* plane) {
  const int64_t count = (plan.bottom - plan.top) * plan.rows_per_bin;
  for (int64_t row = plan.rows[0]; row <= plan.rows[count - 1]; ++row) {
    const scalar_t* cells = plane + row * call.row_pitch + plan.start;
    for (int64_t x = 0; x < plan.columns; x += L) {
      __builtin_prefetch(cells + x);
    }
    __builtin_prefetch(cells + plan.columns - 1);
  }
}

// For L columns of a row of bins: the largest value among its rows, and the first row that has it.
template <int L, typename T>
struct Column {
  typedef Vector<typename IndexOf<T>::type, L> Rows;
  Vector<T, L> best;
  Rows row;
};

template <int L, bool kMaxima, typename scalar_t, typename T>
inline Column<L, T> search_rows(
    const int64_t* rows, int64_t count, const scalar_t* cells, int64_t row_pitch, int64_t lanes, T lowest,
    Vector<T, L>& probe) {
  typedef typename IndexOf<T>::type Index;
  Column<L, T> found = {Vector<T, L>{} + lowest, typename Column<L, T>::Rows{} - 1};
  for (int64_t j = 0; j < count; ++j) {
    const Vector<T, L> values = load_cells<L>(cells + rows[j] * row_pitch, lanes);
    const auto better = values > found.best;
    found.best = better ? values : found.best;
    if constexpr (kMaxima) {
      found.row = better ? typename Column<L, T>::Rows{} + static_cast<Index>(rows[j]) : found.row;
    }
    probe += values;
  }
  return found;
}

// Lanes of two vectors, one after the other, by their numbers.
template <int L, typename V, typename Indices>
inline V lookup(V first, V second, bool one, Indices which) {
#if defined(__GNUC__) && !defined(__clang__)
  return one ? __builtin_shuffle(first, which) : __builtin_shuffle(first, second, which);
#else
  V result;
  for (int lane = 0; lane < L; ++lane) {
    result[lane] = which[lane] < L ? first[which[lane]] : second[which[lane] - L];
  }
  return result;
#endif
}

template <typename Index, typename V>
inline void store_cells(int32_t* to, V cells, int64_t count) {
  constexpr int lanes = sizeof(V) / sizeof(Index);
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(Index) == 4) {
    return _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << count) - 1u), (__m512i)cells);
  }
#endif
  Index all[lanes];
  __builtin_memcpy(all, &cells, sizeof cells);
  for (int64_t lane = 0; lane < count; ++lane) {
    to[lane] = static_cast<int32_t>(all[lane]);
  }
}

// The columns of a row of bins, where they fit into two vectors, of which the second repeats `overlap` of the first:
// which[j * pitch + q] is the lane of column j of bin q, and of its last one where it has fewer.
template <int L, bool kMaxima, typename scalar_t, typename T>
inline void search_columns(
    const MaxPlan& plan, const MaxCall<scalar_t>& call, const Column<L, T>& first, const Column<L, T>& second,
    const typename IndexOf<T>::type* which, typename IndexOf<T>::type overlap, scalar_t* output, int32_t* maxima) {
  typedef typename IndexOf<T>::type Index;
  typedef Vector<Index, L> Indices;
  const bool one = plan.columns <= L;
  const int64_t bins = plan.right - plan.left, pitch = (bins + L - 1) / L * L;
  for (int64_t q = 0; q < bins; q += L) {
    Indices column;
    __builtin_memcpy(&column, which + q, sizeof column);
    Vector<T, L> best = lookup<L>(first.best, second.best, one, column);
    Indices row = {};
    if constexpr (kMaxima) {
      row = lookup<L>(first.row, second.row, one, column);
    }
    for (int64_t j = 1; j < plan.widest; ++j) {
      Indices next_column;
      __builtin_memcpy(&next_column, which + j * pitch + q, sizeof next_column);
      const Vector<T, L> next = lookup<L>(first.best, second.best, one, next_column);
      if constexpr (kMaxima) {
        const Indices next_row = lookup<L>(first.row, second.row, one, next_column);
        const auto better = (next > best) | ((next == best) & (next_row < row));
        best = better ? next : best;
        row = better ? next_row : row;
        column = better ? next_column : column;
      } else {
        best = next > best ? next : best;
      }
    }
    const int64_t lanes = smaller(L, bins - q);
    store_first<L>(output + q, best, lanes);
    if constexpr (kMaxima) {
      const Indices none = Indices{} - 1;
      column -= column < L ? Indices{} : Indices{} + overlap;
      const Indices cell = row * static_cast<Index>(call.width) + static_cast<Index>(plan.start) + column;
      store_cells<Index>(maxima + q, row < 0 ? none : cell, lanes);
    }
  }
}

template <int L, bool kMaxima, typename scalar_t, typename T>
inline void search_narrow(const MaxPlan& plan, const MaxCall<scalar_t>& call, T lowest) {
  typedef typename IndexOf<T>::type Index;
  const int64_t bins = plan.right - plan.left, pitch = (bins + L - 1) / L * L;
  Index* which = static_cast<Index*>(call.scratch);
  for (int64_t j = 0; j < plan.widest; ++j) {
    for (int64_t q = 0; q < pitch; ++q) {
      which[j * pitch + q] = static_cast<Index>(q < bins ? smaller(plan.begin[q] + j, plan.end[q] - 1) : 0);
    }
  }
  const int64_t lanes = smaller(L, call.width), after = smaller(L, call.width - L - plan.start);
  const Index overlap = static_cast<Index>(plan.columns > L ? L - after : 0);
  for (int64_t q = 0; q < plan.widest * pitch; ++q) {
    which[q] += which[q] < L ? 0 : overlap;
  }
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(plan, call, plane + kPlanesAhead * call.channel_stride);
    }
    Vector<T, L> probe = {};
    for (int64_t p = plan.top; p < plan.bottom; ++p) {
      const int64_t* rows = plan.rows + (p - plan.top) * plan.rows_per_bin;
      const scalar_t* cells = plane + plan.start;
      const auto first =
          search_rows<L, kMaxima>(rows, plan.rows_per_bin, cells, call.row_pitch, lanes, lowest, probe);
      auto second = first;
      if (plan.columns > L) {
        second = search_rows<L, kMaxima>(rows, plan.rows_per_bin, cells + after, call.row_pitch, L, lowest, probe);
      }
      const int64_t bin = channel * call.pooled.cells() + p * call.pooled.width + plan.left;
      search_columns<L, kMaxima>(
          plan, call, first, second, which, overlap, call.output + bin, kMaxima ? call.maxima + bin : nullptr);
    }
    if (!call.legacy && any_nan(probe * T(0))) {
      search_slowly(plan, call, channel);
    }
  }
}

template <int L, bool kMaxima, typename scalar_t, typename T>
inline void search_wide(const MaxPlan& plan, const MaxCall<scalar_t>& call, T lowest) {
  typedef typename IndexOf<T>::type Index;
  T* across = static_cast<T*>(call.scratch);
  Index* row_of = reinterpret_cast<Index*>(across + plan.columns + L);
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(plan, call, plane + kPlanesAhead * call.channel_stride);
    }
    Vector<T, L> probe = {};
    for (int64_t p = plan.top; p < plan.bottom; ++p) {
      const int64_t* rows = plan.rows + (p - plan.top) * plan.rows_per_bin;
      for (int64_t x = 0; x < plan.columns; x += L) {
        const int64_t at = smaller(x, call.width - L - plan.start);  // the last vector ends with the map
        const auto found = search_rows<L, kMaxima>(
            rows, plan.rows_per_bin, plane + plan.start + at, call.row_pitch, L, lowest, probe);
        store<L>(across + at, found.best);
        __builtin_memcpy(row_of + at, &found.row, sizeof found.row);
      }
      for (int64_t q = 0; q < plan.right - plan.left; ++q) {
        int64_t column = plan.begin[q];
        for (int64_t x = column + 1; x < plan.end[q]; ++x) {
          const bool before = kMaxima && row_of[x] < row_of[column];
          column = (across[x] > across[column]) | ((across[x] == across[column]) & before) ? x : column;
        }
        const int64_t bin = channel * call.pooled.cells() + p * call.pooled.width + plan.left + q;
        narrow(across[column], call.output + bin);
        if constexpr (kMaxima) {
          const int64_t row = row_of[column];
          call.maxima[bin] = static_cast<int32_t>(row < 0 ? -1 : row * call.width + plan.start + column);
        }
      }
    }
    if (!call.legacy && any_nan(probe * T(0))) {
      search_slowly(plan, call, channel);
    }
  }
}

// For a map whose columns are neighbours in memory.
template <int L, typename scalar_t, typename T>
void max_planes(const MaxPlan& plan, const MaxCall<scalar_t>& call) {
  clear_empty(plan, call);
  if (plan.top == plan.bottom) {
    return;
  }
  const T lowest = lowest_of(scalar_t{}, call.legacy);
  const bool keep = call.maxima != nullptr;
  if (plan.columns <= 2 * L) {
    keep ? search_narrow<L, true>(plan, call, lowest) : search_narrow<L, false>(plan, call, lowest);
  } else {
    keep ? search_wide<L, true>(plan, call, lowest) : search_wide<L, false>(plan, call, lowest);
  }
}

// For a map whose channels are neighbours in memory: bin by bin, with channels as lanes.
template <int L, typename scalar_t, typename T>
void max_channels(const MaxPlan& plan, const MaxCall<scalar_t>& call) {
  typedef Vector<typename IndexOf<T>::type, L> Indices;
  clear_empty(plan, call);
  const T lowest = lowest_of(scalar_t{}, call.legacy);
  for (int64_t channel = 0; channel < call.channels; channel += L) {
    const int64_t lanes = smaller(L, call.channels - channel);
    Vector<T, L> probe = {};
    for (int64_t p = plan.top; p < plan.bottom; ++p) {
      for (int64_t q = plan.left; q < plan.right; ++q) {
        Vector<T, L> best = Vector<T, L>{} + lowest;
        Indices cell = Indices{} - 1;
        for (int64_t j = 0; j < plan.rows_per_bin; ++j) {
          const int64_t row = plan.rows[(p - plan.top) * plan.rows_per_bin + j];
          for (int64_t x = plan.begin[q - plan.left]; x < plan.end[q - plan.left]; ++x) {
            const int64_t column = plan.start + x;
            const scalar_t* cells = call.map + channel + row * call.row_pitch + column * call.column_pitch;
            const Vector<T, L> values = load_cells<L>(cells, lanes);
            const auto better = values > best;
            best = better ? values : best;
            cell = better ? Indices{} + static_cast<typename IndexOf<T>::type>(row * call.width + column) : cell;
            probe += values;
          }
        }
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t bin = (channel + lane) * call.pooled.cells() + p * call.pooled.width + q;
          narrow(best[lane], call.output + bin);
          if (call.maxima != nullptr) {
            call.maxima[bin] = static_cast<int32_t>(cell[lane]);
          }
        }
      }
    }
    if (!call.legacy && any_nan(probe * T(0))) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        search_slowly(plan, call, channel + lane);
      }
    }
  }
}

// Backward: adds the gradient of each bin of one RoI to its cell, from row [top] on and up to [bottom], in elements.
template <typename scalar_t>
void scatter_to_cells(const int32_t* cells, const ScatterCall<scalar_t>& call) {
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* grad = call.grad + channel * call.channel_stride;
    compute_t<scalar_t>* sums = call.planes + channel * call.plane_size - call.top;
    for (int64_t p = 0; p < call.pooled.height; ++p) {
      for (int64_t q = 0; q < call.pooled.width; ++q) {
        const int64_t cell = *cells++;
        if (cell >= call.top && cell < call.bottom) {
          sums[cell] += widen(grad[p * call.row_stride + q * call.column_stride]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace roialign
