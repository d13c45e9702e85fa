// The inner loops of RoIAlign's maxima backward, compiled once for each instruction set.
//
// The samples are searched again, for their places. For the gradient to the features each bin's upstream gradient goes
// to its largest sample, columns of samples still being lanes; rows of the map add up those of the rows of samples that
// read them; and a band takes columns to cells, as in the gradient of the mean. What is not finite, RoIs of more
// columns than two vectors hold or more bins than one does, and the gradient to the boxes go bin by bin instead.
#pragma once

#include "roi_align_max_kernel.h"

namespace roialign {
namespace {

// Adds what one bin's upstream gradient gives to the cells that its largest sample reads.
template <bool kCorners, typename scalar_t, typename T>
inline void add_to_cells(
    const MaxSampleCall<scalar_t>& call, const scalar_t* map, T* plane, const TwoCells<T>& y, const TwoCells<T>& x,
    T upstream) {
  const auto add = [&](int row, int column) {
    const T weight = y.weight[row] * x.weight[column];
    const int64_t offset = y.offset[row];
    if ((weight != 0) & (offset >= call.top) & (offset < call.bottom)) {
      plane[offset - call.top + x.offset[column]] += weight * upstream;
    }
  };
  if constexpr (kCorners) {
    const int corner = largest_corner(y, x, map).number;
    return add(corner / 2, corner % 2);
  }
  add(0, 0);
  add(0, 1);
  add(1, 0);
  add(1, 1);
}

// Adds what one bin's upstream gradient gives to the weights of the second cells that its largest sample reads.
template <bool kCorners, typename scalar_t, typename T>
inline void add_to_weights(
    const MaxSampleCall<scalar_t>& call, const scalar_t* map, const Best<T>& best, const TwoCells<T>& y,
    const TwoCells<T>& x, T upstream) {
  const int only = kCorners ? largest_corner(y, x, map).number : -1;
  T of_row = 0, of_column = 0;
  for (int corner = 0; corner < 4; ++corner) {
    const T by_cell = upstream * widen(map[y.offset[corner / 2] + x.offset[corner % 2]]);
    const bool counted = !kCorners || corner == only;
    of_row += counted ? (corner / 2 ? by_cell : -by_cell) * x.weight[corner % 2] : T(0);
    of_column += counted ? (corner % 2 ? by_cell : -by_cell) * y.weight[corner / 2] : T(0);
  }
  call.of_rows[best.row] += of_row;
  call.of_columns[best.column] += of_column;
}

// The same, or that, for the bins of a row one by one.
template <int L, bool kCorners, typename scalar_t, typename T>
inline void scatter_bins(
    const MaxSampleCall<scalar_t>& call, const scalar_t* map, const T* read, int64_t begin, int64_t end, T* room,
    const scalar_t* grad, T* plane) {
  const SamplePlan<T>& plan = call.plan;
  const int64_t mask = (int64_t{1} << plan.row_shift) - 1;
  T* largest = room;
  int32_t* places = reinterpret_cast<int32_t*>(largest + plan.pooled.width);
  if (read != nullptr) {
    search_bins<L, kCorners, true>(plan, read, begin, end, room + 2 * plan.pooled.width, largest, places);
  }
  for (int64_t q = 0; q < plan.pooled.width; ++q) {
    const bool some = plan.first_column[q] < plan.first_column[q + 1];
    const Best<T> best = read == nullptr
        ? search_slowly(call, map, begin, end, q)
        : Best<T>{largest[q], begin + (places[q] >> plan.row_shift), places[q] & mask, some};
    if (!counts(plan, best, end - begin, q)) {
      continue;
    }
    const TwoCells<T>&y = plan.rows[best.row], &x = plan.columns[best.column];
    const T upstream = widen(grad[q * call.grad_column_stride]);
    if (plane != nullptr) {
      add_to_cells<kCorners>(call, map, plane, y, x, upstream);
    } else {
      add_to_weights<kCorners>(call, map, best, y, x, upstream);
    }
  }
}

// What is known of the rows of the map that are worked on, [rows, groups, L], and the gradient to them.
template <typename T>
struct RowsAtOnce {
  RowsRead rows;
  T* read;
  typename IndexOf<T>::type* right_wins;
  T* sums;    // [rows, 1 or, with corners, 2, groups, L]
  T* spread;  // [rows, pieces, L]
  T* room;
};

// The upstream gradient of a row of bins, 0 for those whose largest sample is off the map.
template <int L, typename scalar_t, typename T>
inline Vector<T, L> upstream_of(
    const MaxSampleCall<scalar_t>& call, const scalar_t* grad, const Column<L, T>& found, int64_t rows) {
  const SamplePlan<T>& plan = call.plan;
  const bool all_on_map = rows == plan.row_grid && plan.samples.width == plan.pooled.width * plan.column_grid;
  if (all_on_map && call.grad_column_stride == 1) {
    return load_first<L>(grad, plan.pooled.width);
  }
  Vector<T, L> upstream = {};
  for (int64_t q = 0; q < plan.pooled.width; ++q) {
    const bool some = plan.first_column[q] < plan.first_column[q + 1];
    const bool counted = counts(plan, Best<T>{found.best[q], 0, 0, some}, rows, q);
    upstream[q] = counted ? widen(grad[q * call.grad_column_stride]) : T(0);
  }
  return upstream;
}

// Adds what the bins of a row give to the rows of the map that their largest samples read.
template <int L, bool kCorners, typename scalar_t, typename T>
inline void spread_bins(
    const MaxSampleCall<scalar_t>& call, const RowsAtOnce<T>& at_once, int64_t begin, int64_t end,
    const scalar_t* grad) {
  typedef typename IndexOf<T>::type Index;
  typedef typename Column<L, T>::Cells Cells;
  const SamplePlan<T>& plan = call.plan;
  const int64_t pitch = plan.groups * L;
  const T* read = at_once.read - at_once.rows.first * pitch;
  const auto first = search_rows<L, kCorners, true>(plan, read, begin, end, 0);
  const auto second = plan.groups < 2 ? first : search_rows<L, kCorners, true>(plan, read, begin, end, 1);
  const auto found = search_columns<L, true>(first, second, plan.groups < 2, plan.widest, L, plan.which);
  const Vector<T, L> upstream = upstream_of<L>(call, grad, found, end - begin);
  for (int64_t group = 0; group < plan.groups; ++group) {
    Cells bins, place;
    __builtin_memcpy(&bins, plan.bin_of + group * L, sizeof bins);
    __builtin_memcpy(&place, plan.column_of + group * L, sizeof place);
    const Cells chosen = lookup<L>(found.cell, found.cell, true, bins);
    const Vector<T, L> of_columns = lookup<L>(upstream, upstream, true, bins);
    for (int64_t row = begin; row < end; ++row) {
      const TwoCells<T>& cells = plan.rows[row];
      Vector<T, L> given = chosen == place ? of_columns : Vector<T, L>{};
      place += static_cast<Index>(Index{1} << plan.row_shift);
      for (int side = 0; side < 2; ++side) {
        Vector<T, L> part = given;
        if constexpr (kCorners) {
          const Vector<T, L> upper = cells.weight[0] * load<L>(read + cells.number[0] * pitch + group * L);
          const Vector<T, L> lower = cells.weight[1] * load<L>(read + cells.number[1] * pitch + group * L);
          part = (lower > upper) == (Cells{} - side) ? given : Vector<T, L>{};
        }
        const int64_t number = cells.number[side] - at_once.rows.first;
        T* sums = at_once.sums + number * pitch * (kCorners ? 2 : 1) + group * L;
        store<L>(sums, load<L>(sums) + cells.weight[side] * part);
      }
    }
  }
}

// Adds the sums of the rows of the map to the map. Nothing, and false, where not all is finite.
template <int L, bool kCorners, typename scalar_t, typename T>
inline bool add_rows(
    const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call, const RowsAtOnce<T>& at_once, T* plane) {
  typedef typename Column<L, T>::Cells Cells;
  const int64_t pitch = call.plan.groups * L, sums_pitch = pitch * (kCorners ? 2 : 1), slots = roi.pieces * L;
  for (int64_t i = 0; kCorners && i < at_once.rows.count * pitch; i += L) {
    T* of_left = at_once.sums + i / pitch * sums_pitch + i % pitch;
    const Vector<T, L> sum = load<L>(of_left);
    Cells right;
    __builtin_memcpy(&right, at_once.right_wins + i, sizeof right);
    store<L>(of_left, right ? Vector<T, L>{} : sum);
    store<L>(of_left + pitch, right ? sum : Vector<T, L>{});
  }
  if (!multiply<L>(call.plan.cells, at_once.sums, sums_pitch, at_once.rows.count, at_once.spread, slots)) {
    return false;
  }
  for (int64_t row = 0; row < at_once.rows.count; ++row) {
    const int64_t offset = roi.row_offsets[at_once.rows.first + row];
    for (int64_t piece = 0; piece < roi.pieces && offset >= call.top && offset < call.bottom; ++piece) {
      T* cells = plane + offset - call.top + roi.starts[piece];
      const Vector<T, L> sum =
          load_cells<L>(cells, call.lanes) + load<L>(at_once.spread + row * slots + piece * L);
      call.lanes == L ? store<L>(cells, sum) : store_first<L>(cells, sum, call.lanes);
    }
  }
  return true;
}

// The gradient of some rows of bins, [first, last), of one channel.
template <int L, bool kCorners, typename scalar_t, typename T>
inline void scatter_rows(
    const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call, const RowsAtOnce<T>& at_once, const scalar_t* map,
    T* plane, const scalar_t* grad, int64_t first, int64_t last) {
  const SamplePlan<T>& plan = call.plan;
  const int64_t pitch = plan.groups * L;
  const bool finite = plan.groups > 0 && read_columns<L, kCorners>(
      roi, call, map, at_once.rows.first, at_once.rows.count, at_once.read, at_once.right_wins);
  if (finite && plan.cells.groups > 0) {
    for (int64_t i = 0; i < at_once.rows.count * pitch * (kCorners ? 2 : 1); i += L) {
      store<L>(at_once.sums + i, Vector<T, L>{});
    }
    for (int64_t p = first; p < last; ++p) {
      if (plan.first_row[p] < plan.first_row[p + 1]) {
        spread_bins<L, kCorners>(
            call, at_once, plan.first_row[p], plan.first_row[p + 1], grad + p * call.grad_row_stride);
      }
    }
    if (add_rows<L, kCorners>(roi, call, at_once, plane)) {
      return;
    }
  }
  for (int64_t p = first; p < last; ++p) {
    const int64_t begin = plan.first_row[p], end = plan.first_row[p + 1];
    scatter_bins<L, kCorners>(
        call, map, finite && begin < end ? at_once.read - at_once.rows.first * pitch : nullptr, begin, end,
        at_once.room, grad + p * call.grad_row_stride, plane);
  }
}

template <int L, bool kCorners, typename scalar_t, typename T>
inline void scatter_planes_of_samples(const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call) {
  const SamplePlan<T>& plan = call.plan;
  const int64_t values = call.rows_at_once * plan.groups * L;
  const bool whole = call.rows_at_once >= roi.rows_read;
  RowsAtOnce<T> at_once{};
  at_once.read = static_cast<T*>(call.scratch);
  at_once.room = at_once.read + values;
  if (plan.cells.groups > 0) {
    at_once.right_wins = reinterpret_cast<typename IndexOf<T>::type*>(at_once.room);
    at_once.sums = at_once.room + values;
    at_once.spread = at_once.sums + 2 * values;
    at_once.room = at_once.spread + call.rows_at_once * roi.pieces * L;
  }
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* map = call.map + channel * call.channel_stride;
    const scalar_t* grad = call.grad + channel * call.grad_channel_stride;
    T* plane = call.planes == nullptr ? nullptr : call.planes + channel * call.plane_size;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(roi, map + kPlanesAhead * call.channel_stride, call.lanes);
    }
    for (int64_t p = 0; p < plan.pooled.height; p += whole ? plan.pooled.height : 1) {
      at_once.rows = whole ? RowsRead{0, roi.rows_read} : rows_of_bins(plan, p);
      scatter_rows<L, kCorners>(
          roi, call, at_once, map, plane, grad, p, whole ? plan.pooled.height : p + 1);
    }
  }
}

template <int L, typename scalar_t, typename T>
void scatter_maxima(const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call) {
  const bool outside = call.planes != nullptr &&
      (roi.rows_read == 0 || roi.row_offsets[0] >= call.bottom || roi.row_offsets[roi.rows_read - 1] < call.top);
  if (!outside) {
    call.corners ? scatter_planes_of_samples<L, true>(roi, call) : scatter_planes_of_samples<L, false>(roi, call);
  }
}

}  // namespace
}  // namespace roialign
