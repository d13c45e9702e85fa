// The inner loops of RoIAlign with maxima, compiled once for each instruction set.
//
// Vectors are made of columns of samples. Each row of the map that a RoI reads is interpolated at them once; two such
// rows make a row of samples. Of those the largest is found as in roi_pool: among the rows of a bin first, and then
// among its columns. Comparisons of vectors lose a NaN on the way, and ONNX's maximum loses an infinity times zero; a
// sum of all that was read finds out, and the bins are then searched sample by sample.
#pragma once

#include "roi_pool_kernel.h"

namespace roialign {
namespace {

// The largest sample of a bin, and its place. None is below 0 where the bin has samples off the map, which are 0 and
// have no place.
template <typename T>
struct Best {
  T value;
  int64_t row, column;
  bool on_map;
};

// NaN counts as larger than all else, as in torch.
template <typename T>
inline bool exceeds(T value, T largest) {
  return (value > largest) | ((value != value) & (largest == largest));
}

// Interpolates rows [first, first + rows) of those that the RoI reads at all columns of samples, or takes the larger
// product of the two, and keeps in `right_wins` which it is: [rows, groups, L]. False if anything read is not finite.
template <int L, bool kCorners, typename scalar_t, typename T>
inline bool read_columns(
    const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call, const scalar_t* map, int64_t first, int64_t rows,
    T* read, typename IndexOf<T>::type* right_wins = nullptr) {
  typedef Vector<typename IndexOf<T>::type, L> Lanes;
  const SamplePlan<T>& plan = call.plan;
  Vector<T, L> probe = {};
  for (int64_t group = 0; group < plan.groups; ++group) {
    const int64_t start = plan.starts[2 * group], second = plan.starts[2 * group + 1];
    const int64_t left = group * L, right = (plan.groups + group) * L;
    Lanes left_lanes, right_lanes;
    __builtin_memcpy(&left_lanes, plan.lanes + left, sizeof left_lanes);
    __builtin_memcpy(&right_lanes, plan.lanes + right, sizeof right_lanes);
    const Vector<T, L> left_weights = load<L>(plan.weights + left), right_weights = load<L>(plan.weights + right);
    for (int64_t row = 0; row < rows; ++row) {
      const scalar_t* cells = map + roi.row_offsets[first + row];
      const Vector<T, L> low = load_cells<L>(cells + start, call.lanes);
      const Vector<T, L> high = second < 0 ? low : load<L>(cells + second);
      const Vector<T, L> by_left = left_weights * lookup<L>(low, high, second < 0, left_lanes);
      const Vector<T, L> by_right = right_weights * lookup<L>(low, high, second < 0, right_lanes);
      const Vector<T, L> sum = by_left + by_right;
      probe += sum;
      if (kCorners && right_wins != nullptr) {
        const auto wins = by_right > by_left;
        __builtin_memcpy(right_wins + row * plan.groups * L + left, &wins, sizeof wins);
      }
      store<L>(read + row * plan.groups * L + left, kCorners ? (by_right > by_left ? by_right : by_left) : sum);
    }
  }
  return !any_nan(probe * T(0));
}

// Of rows of samples [begin, end) the largest of each column of a group, and its place.
template <int L, bool kCorners, bool kMaxima, typename T>
inline Column<L, T> search_rows(
    const SamplePlan<T>& plan, const T* read, int64_t begin, int64_t end, int64_t group) {
  typedef typename IndexOf<T>::type Index;
  typedef typename Column<L, T>::Cells Cells;
  const int64_t pitch = plan.groups * L;
  Column<L, T> found = {};
  for (int64_t row = begin; row < end; ++row) {
    const TwoCells<T>& cells = plan.rows[row];
    const Vector<T, L> upper = cells.weight[0] * load<L>(read + cells.number[0] * pitch + group * L);
    const Vector<T, L> lower = cells.weight[1] * load<L>(read + cells.number[1] * pitch + group * L);
    const Vector<T, L> values = kCorners ? (lower > upper ? lower : upper) : upper + lower;
    if (row == begin) {
      found.best = values;
      continue;
    }
    if constexpr (kMaxima) {
      found.cell = values > found.best ? Cells{} + static_cast<Index>(row - begin) : found.cell;
    }
    found.best = values > found.best ? values : found.best;
  }
  if constexpr (kMaxima) {
    Cells column;
    __builtin_memcpy(&column, plan.column_of + group * L, sizeof column);
    found.cell = (found.cell << static_cast<Index>(plan.row_shift)) + column;
  }
  return found;
}

// The maxima of a row of bins, of samples that are finite, and their places [bins].
template <int L, bool kCorners, bool kMaxima, typename scalar_t, typename T>
inline void search_bins(
    const SamplePlan<T>& plan, const T* read, int64_t begin, int64_t end, T* room, scalar_t* largest,
    int32_t* places) {
  typedef typename IndexOf<T>::type Index;
  const int64_t bins = plan.pooled.width, pitch = (bins + L - 1) / L * L;
  if (plan.groups <= 2) {
    const auto first = search_rows<L, kCorners, kMaxima>(plan, read, begin, end, 0);
    const auto second = plan.groups < 2 ? first : search_rows<L, kCorners, kMaxima>(plan, read, begin, end, 1);
    return search_all_columns<L, kMaxima>(
        first, second, plan.groups < 2, bins, plan.widest, plan.which, largest, places);
  }
  Index* place_of = reinterpret_cast<Index*>(room + plan.samples.width + L);
  for (int64_t group = 0; group < plan.groups; ++group) {  // each begins where the lanes in use of the last one end
    const auto found = search_rows<L, kCorners, kMaxima>(plan, read, begin, end, group);
    store<L>(room + plan.first_of_group[group], found.best);
    __builtin_memcpy(place_of + plan.first_of_group[group], &found.cell, sizeof found.cell);
  }
  for (int64_t q = 0; q < bins; ++q) {
    int64_t column = smaller(plan.first_column[q], plan.samples.width - 1);
    for (int64_t x = column + 1; x < plan.first_column[q + 1]; ++x) {
      const bool before = kMaxima && place_of[x] < place_of[column];
      column = (room[x] > room[column]) | ((room[x] == room[column]) & before) ? x : column;
    }
    narrow(room[column], largest + q);
    if constexpr (kMaxima) {
      places[q] = static_cast<int32_t>(place_of[column]);
    }
  }
}

template <typename T>
struct Corner {
  T value;
  int number;  // two of the upper row, then two of the lower one
};

// The largest corner of a sample, as ONNX has it.
template <typename scalar_t, typename T>
inline Corner<T> largest_corner(const TwoCells<T>& y, const TwoCells<T>& x, const scalar_t* map) {
  T products[4];
  for (int corner = 0; corner < 4; ++corner) {
    const T weight = y.weight[corner / 2] * x.weight[corner % 2];
    products[corner] = weight * widen(map[y.offset[corner / 2] + x.offset[corner % 2]]);
  }
  Corner<T> largest{products[0], 0};
  for (int corner = 1; corner < 4; ++corner) {  // which it is no processor foresees: selected without branches
    const bool better = exceeds(products[corner], largest.value);
    largest.value = better ? products[corner] : largest.value;
    largest.number = better ? corner : largest.number;
  }
  return largest;
}

template <typename scalar_t, typename T>
inline T sample_at(const TwoCells<T>& y, const TwoCells<T>& x, const scalar_t* map, bool corners) {
  if (corners) {
    return largest_corner(y, x, map).value;
  }
  T sum = 0;
  for (int row = 0; row < (y.offset[0] == y.offset[1] ? 1 : 2); ++row) {
    for (int column = 0; column < (x.offset[0] == x.offset[1] ? 1 : 2); ++column) {
      sum += y.weight[row] * x.weight[column] * widen(map[y.offset[row] + x.offset[column]]);
    }
  }
  return sum;
}

// The largest sample of bin q among rows of samples [begin, end), whatever their values.
template <typename scalar_t>
inline auto search_slowly(
    const MaxSampleCall<scalar_t>& call, const scalar_t* map, int64_t begin, int64_t end, int64_t q) {
  typedef compute_t<scalar_t> T;
  Best<T> best{T(0), 0, 0, false};
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t column = call.plan.first_column[q]; column < call.plan.first_column[q + 1]; ++column) {
      const T value = sample_at(call.plan.rows[row], call.plan.columns[column], map, call.corners);
      if (!best.on_map || exceeds(value, best.value)) {
        best = {value, row, column, true};
      }
    }
  }
  return best;
}

// Where the largest sample of bin q is below 0 and others are off the map, and where all are, 0 counts.
template <typename T>
inline bool counts(const SamplePlan<T>& plan, const Best<T>& best, int64_t rows, int64_t q) {
  const int64_t columns = plan.first_column[q + 1] - plan.first_column[q];
  const bool off_map = rows < plan.row_grid || columns < plan.column_grid;
  return best.on_map && !(off_map && best.value < 0);
}

// The bins of one row of a channel, whose samples are those of rows [begin, end).
template <int L, bool kCorners, typename scalar_t, typename T>
inline void pool_bins(
    const MaxSampleCall<scalar_t>& call, const scalar_t* map, const T* read, int64_t begin, int64_t end, T* room,
    scalar_t* output) {
  const SamplePlan<T>& plan = call.plan;
  const int64_t rows = end - begin;
  if (read != nullptr) {
    search_bins<L, kCorners, false>(plan, read, begin, end, room, output, nullptr);
    if (rows == plan.row_grid && plan.samples.width == plan.pooled.width * plan.column_grid) {
      return;
    }
  }
  for (int64_t q = 0; q < plan.pooled.width; ++q) {
    const bool some = plan.first_column[q] < plan.first_column[q + 1];
    const Best<T> best =
        read == nullptr ? search_slowly(call, map, begin, end, q) : Best<T>{widen(output[q]), 0, 0, some};
    narrow(counts(plan, best, rows, q) ? best.value : T(0), output + q);
  }
}

// Rows of the map, by their numbers among those that the RoI reads.
struct RowsRead {
  int64_t first, count;
};

template <typename T>
inline RowsRead rows_of_bins(const SamplePlan<T>& plan, int64_t p) {
  if (plan.first_row[p] == plan.first_row[p + 1]) {
    return {0, 0};
  }
  const TwoCells<T>&one = plan.rows[plan.first_row[p]], &other = plan.rows[plan.first_row[p + 1] - 1];
  const int64_t above = smaller(one.number[0], other.number[0]);
  return {above, (one.number[0] > other.number[0] ? one : other).number[1] + 1 - above};
}

template <int L, bool kCorners, typename scalar_t, typename T>
inline void pool_planes_of_samples(const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call) {
  const SamplePlan<T>& plan = call.plan;
  const int64_t pitch = plan.groups * L;
  const bool whole = call.rows_at_once >= roi.rows_read;
  T* read = static_cast<T*>(call.scratch);
  T* room = read + call.rows_at_once * pitch;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* map = call.map + channel * call.channel_stride;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(roi, map + kPlanesAhead * call.channel_stride, call.lanes);
    }
    bool finite = false;
    for (int64_t p = 0; p < plan.pooled.height; ++p) {
      const RowsRead rows = whole ? RowsRead{0, roi.rows_read} : rows_of_bins(plan, p);
      if (p == 0 || !whole) {
        finite = plan.groups > 0 && read_columns<L, kCorners>(roi, call, map, rows.first, rows.count, read);
      }
      const int64_t begin = plan.first_row[p], end = plan.first_row[p + 1];
      pool_bins<L, kCorners>(
          call, map, finite && begin < end ? read - rows.first * pitch : nullptr, begin, end, room,
          call.output + (channel * plan.pooled.height + p) * plan.pooled.width);
    }
  }
}

template <int L, typename scalar_t, typename T>
void pool_maxima(const RoiPlan<T>& roi, const MaxSampleCall<scalar_t>& call) {
  call.corners ? pool_planes_of_samples<L, true>(roi, call) : pool_planes_of_samples<L, false>(roi, call);
}

}  // namespace
}  // namespace roialign
