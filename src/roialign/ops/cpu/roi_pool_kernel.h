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

// For L columns of a row of bins: the largest value among its rows, and the first cell that has it, or a negative number.
template <int L, typename T>
struct Column {
  typedef Vector<typename IndexOf<T>::type, L> Cells;
  Vector<T, L> best;
  Cells cell;
};

// Of each two the larger value, and of equal ones that of the smaller cell.
template <int L, bool kMaxima, typename T>
inline void take_larger(Column<L, T>& found, const Column<L, T>& next) {
  if constexpr (kMaxima) {
    const auto smaller_cell = next.cell < found.cell ? next.cell : found.cell;
    const auto of_equal = next.best == found.best ? smaller_cell : found.cell;
    found.cell = next.best > found.best ? next.cell : of_equal;
  }
  found.best = next.best > found.best ? next.best : found.best;
}

template <int L, bool kMaxima, typename scalar_t, typename T>
inline Column<L, T> search_rows(
    const MaxPlan& plan, const MaxCall<scalar_t>& call, const int64_t* rows, const scalar_t* plane, int64_t start,
    int64_t lanes, T lowest, Vector<T, L>& probe) {
  typedef typename IndexOf<T>::type Index;
  typedef typename Column<L, T>::Cells Cells;
  Column<L, T> found = {Vector<T, L>{} + lowest, Cells{} - 1};
  for (int64_t j = 0; j < plan.rows_per_bin; ++j) {
    const Vector<T, L> values = load_cells<L>(plane + rows[j] * call.row_pitch + start, lanes);
    if constexpr (kMaxima) {
      found.cell = values > found.best ? Cells{} + static_cast<Index>(rows[j]) : found.cell;
    }
    found.best = values > found.best ? values : found.best;
    probe += values;
  }
  if constexpr (kMaxima) {
    Cells column;
    for (int lane = 0; lane < L; ++lane) {
      column[lane] = static_cast<Index>(start + lane);
    }
    found.cell = found.cell < 0 ? found.cell : found.cell * static_cast<Index>(call.width) + column;
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

// L bins of a row, whose columns fit into two vectors, or one: which[j * pitch] is the lane of column j of the first
// bin, of `widest` columns at most, and of its last one where it has fewer.
template <int L, bool kMaxima, typename T>
inline Column<L, T> search_columns(
    const Column<L, T>& first, const Column<L, T>& second, bool one, int64_t widest, int64_t pitch,
    const typename IndexOf<T>::type* which) {
  const auto column = [&](int64_t j) {
    typename Column<L, T>::Cells lanes;
    __builtin_memcpy(&lanes, which + j * pitch, sizeof lanes);
    Column<L, T> found = {lookup<L>(first.best, second.best, one, lanes), {}};
    if constexpr (kMaxima) {
      found.cell = lookup<L>(first.cell, second.cell, one, lanes);
    }
    return found;
  };
  Column<L, T> found = column(0);
  for (int64_t j = 1; j < widest; ++j) {
    take_larger<L, kMaxima>(found, column(j));
  }
  return found;
}

// All bins of a row.
template <int L, bool kMaxima, typename scalar_t, typename T>
inline void search_all_columns(
    const Column<L, T>& first, const Column<L, T>& second, bool one, int64_t bins, int64_t widest,
    const typename IndexOf<T>::type* which, scalar_t* output, int32_t* maxima) {
  const int64_t pitch = (bins + L - 1) / L * L;
  for (int64_t q = 0; q < bins; q += L) {
    const auto found = search_columns<L, kMaxima>(first, second, one, widest, pitch, which + q);
    const int64_t lanes = smaller(L, bins - q);
    store_first<L>(output + q, found.best, lanes);
    if constexpr (kMaxima) {
      store_cells<typename IndexOf<T>::type>(maxima + q, found.cell, lanes);
    }
  }
}

template <int L, bool kMaxima, typename scalar_t, typename T>
inline void search_narrow(const MaxPlan& plan, const MaxCall<scalar_t>& call, T lowest) {
  typedef typename IndexOf<T>::type Index;
  const int64_t bins = plan.right - plan.left, pitch = (bins + L - 1) / L * L;
  const int64_t lanes = smaller(L, call.width);
  const int64_t after = smaller(L, call.width - L - plan.start);  // columns on, where the second vector begins
  Index* which = static_cast<Index*>(call.scratch);
  for (int64_t j = 0; j < plan.widest; ++j) {
    for (int64_t q = 0; q < pitch; ++q) {
      const int64_t column = q < bins ? smaller(plan.begin[q] + j, plan.end[q] - 1) : 0;
      which[j * pitch + q] = static_cast<Index>(column < L ? column : column + L - after);
    }
  }
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(plan, call, plane + kPlanesAhead * call.channel_stride);
    }
    Vector<T, L> probe = {};
    for (int64_t p = plan.top; p < plan.bottom; ++p) {
      const int64_t* rows = plan.rows + (p - plan.top) * plan.rows_per_bin;
      const auto first = search_rows<L, kMaxima>(plan, call, rows, plane, plan.start, lanes, lowest, probe);
      auto second = first;
      if (plan.columns > L) {
        second = search_rows<L, kMaxima>(plan, call, rows, plane, plan.start + after, L, lowest, probe);
      }
      const int64_t bin = channel * call.pooled.cells() + p * call.pooled.width + plan.left;
      search_all_columns<L, kMaxima>(
          first, second, plan.columns <= L, bins, plan.widest, which, call.output + bin,
          kMaxima ? call.maxima + bin : nullptr);
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
  Index* cell_of = reinterpret_cast<Index*>(across + plan.columns + L);
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
        const auto found = search_rows<L, kMaxima>(plan, call, rows, plane, plan.start + at, L, lowest, probe);
        store<L>(across + at, found.best);
        __builtin_memcpy(cell_of + at, &found.cell, sizeof found.cell);
      }
      for (int64_t q = 0; q < plan.right - plan.left; ++q) {
        int64_t column = plan.begin[q];
        for (int64_t x = column + 1; x < plan.end[q]; ++x) {
          const bool before = kMaxima && cell_of[x] < cell_of[column];
          column = (across[x] > across[column]) | ((across[x] == across[column]) & before) ? x : column;
        }
        const int64_t bin = channel * call.pooled.cells() + p * call.pooled.width + plan.left + q;
        narrow(across[column], call.output + bin);
        if constexpr (kMaxima) {
          call.maxima[bin] = static_cast<int32_t>(cell_of[column]);
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

// Channels whose gradients are added in turn: neighbouring bins often add to one cell, which takes long.
constexpr int kChannelsAtOnce = 4;

template <int C, typename scalar_t>
inline void scatter_channels(const int32_t* cells, const ScatterCall<scalar_t>& call, int64_t first_channel) {
  const scalar_t* grad = call.grad + first_channel * call.channel_stride;
  compute_t<scalar_t>* sums = call.planes + first_channel * call.plane_size;
  const int64_t bins = call.pooled.cells(), width = call.pooled.width, plane_size = call.plane_size;
  const int64_t channel_stride = call.channel_stride, row_stride = call.row_stride;
  const int64_t column_stride = call.column_stride, top = call.top;
  const uint64_t held = static_cast<uint64_t>(call.bottom - top);
  cells += first_channel * bins;
  for (int64_t row = 0; row < bins; row += width, grad += row_stride) {
    for (int64_t q = 0; q < width; ++q) {
      for (int i = 0; i < C; ++i) {
        const uint64_t cell = static_cast<uint64_t>(cells[i * bins + row + q] - top);  // large where it is before `top`
        if (cell < held) {
          sums[i * plane_size + static_cast<int64_t>(cell)] += widen(grad[i * channel_stride + q * column_stride]);
        }
      }
    }
  }
}

// Backward: adds the gradient of each bin of one RoI to its cell, from row [top] on and up to [bottom], in elements.
template <typename scalar_t>
void scatter_to_cells(const int32_t* cells, const ScatterCall<scalar_t>& call) {
  int64_t channel = 0;
  for (; channel + kChannelsAtOnce <= call.channels; channel += kChannelsAtOnce) {
    scatter_channels<kChannelsAtOnce>(cells, call, channel);
  }
  for (; channel < call.channels; ++channel) {
    scatter_channels<1>(cells, call, channel);
  }
}

}  // namespace
}  // namespace roialign
