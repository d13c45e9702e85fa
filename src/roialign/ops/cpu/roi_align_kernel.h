// The inner loops of RoIAlign forward, compiled once for each instruction set.
#pragma once

#include "products.h"

namespace roialign {
namespace {

// A single row of bins: here channels go through the columns' band together, as rows of bins do otherwise.
template <int L, int B, typename scalar_t, typename T>
inline void pool_single_rows(const RoiPlan<T>& plan, const PoolCall<scalar_t>& call) {
  T* combined = static_cast<T*>(call.scratch);
  const int64_t pitch = plan.pieces * L, width = call.pooled.width;
  for (int64_t channel = 0; channel < call.channels; channel += kRowLanes) {
    const int64_t count = smaller(kRowLanes, call.channels - channel);
    for (int64_t i = 0; i < count; ++i) {
      const scalar_t* plane = call.map + (channel + i) * call.channel_stride;
      if (channel + i + kPlanesAhead < call.channels) {
        prefetch<L>(plan, plane + kPlanesAhead * call.channel_stride, call.lanes);
      }
      combine_sparse<L>(plan, 0, plane, call.lanes, combined + i * pitch);
    }
    scalar_t* output = call.output + channel * width;
    if (!multiply<B>(plan.column_band, combined, pitch, count, output, width)) {
      for (int64_t i = 0; i < count; ++i) {
        multiply_sparse(plan.columns, combined + i * pitch, output + i * width);
      }
    }
  }
}

// Forward, for a map whose columns are neighbours in memory. B lanes of bins, L of cells.
template <int L, int B, typename scalar_t, typename T>
void pool_planes(const RoiPlan<T>& plan, const PoolCall<scalar_t>& call) {
  T* combined = static_cast<T*>(call.scratch);
  const int64_t pitch = plan.pieces * L;
  const int64_t width = call.pooled.width;
  if (call.pooled.height == 1) {
    return pool_single_rows<L, B>(plan, call);
  }
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(plan, plane + kPlanesAhead * call.channel_stride, call.lanes);
    }
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

// One bin of few taps for all channels: R rows and S columns of them, or as many as there are.
template <int R, int S, typename scalar_t, typename T>
inline void pool_bin(
    const Sparse<T>& rows, const Sparse<T>& columns, int64_t p, int64_t q, const PoolCall<scalar_t>& call) {
  const int64_t first_row = rows.begin[p], first_column = columns.begin[q];
  const int64_t height = R > 0 ? R : rows.begin[p + 1] - first_row;
  const int64_t width = S > 0 ? S : columns.begin[q + 1] - first_column;
  const T *row_weight = rows.weight + first_row, *column_weight = columns.weight + first_column;
  const int64_t *row = rows.index + first_row, *column = columns.index + first_column;
  const scalar_t* plane = call.map;
  scalar_t* output = call.output + p * columns.rows + q;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    T sum = 0;
    for (int64_t s = 0; s < width; ++s) {
      T combined = 0;
      for (int64_t r = 0; r < height; ++r) {
        combined = multiply_add(row_weight[r], widen(plane[column[s] + row[r]]), combined);
      }
      sum = multiply_add(column_weight[s], combined, sum);
    }
    narrow(sum, output);
    plane += call.channel_stride;
    output += call.pooled.cells();
  }
}

template <int R, typename scalar_t, typename T>
inline void pool_bin_of_rows(
    const Sparse<T>& rows, const Sparse<T>& columns, int64_t p, int64_t q, const PoolCall<scalar_t>& call) {
  switch (columns.begin[q + 1] - columns.begin[q]) {
    case 2: return pool_bin<R, 2>(rows, columns, p, q, call);
    case 3: return pool_bin<R, 3>(rows, columns, p, q, call);
    case 4: return pool_bin<R, 4>(rows, columns, p, q, call);
    default: return pool_bin<0, 0>(rows, columns, p, q, call);
  }
}

inline bool are_pairs(const int64_t* begin, int64_t bins) {
  bool pairs = true;
  for (int64_t bin = 0; bin < bins; ++bin) {
    pairs &= begin[bin + 1] - begin[bin] == 2;
  }
  return pairs;
}

// All bins of two taps along each axis, channel by channel.
template <typename scalar_t, typename T>
inline void pool_pairs(const Sparse<T>& rows, const Sparse<T>& columns, const PoolCall<scalar_t>& call) {
  scalar_t* output = call.output;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* plane = call.map + channel * call.channel_stride;
    for (int64_t p = 0; p < rows.rows; ++p) {
      const T upper = rows.weight[2 * p], lower = rows.weight[2 * p + 1];
      const scalar_t *above = plane + rows.index[2 * p], *below = plane + rows.index[2 * p + 1];
      for (int64_t tap = 0; tap < 2 * columns.rows; tap += 2) {
        const int64_t left = columns.index[tap], right = columns.index[tap + 1];
        const T above_left = multiply_add(upper, widen(above[left]), T(0));
        const T above_right = multiply_add(upper, widen(above[right]), T(0));
        const T sum = multiply_add(columns.weight[tap], multiply_add(lower, widen(below[left]), above_left), T(0));
        const T at_right = multiply_add(lower, widen(below[right]), above_right);
        narrow(multiply_add(columns.weight[tap + 1], at_right, sum), output++);
      }
    }
  }
}

// Of fewer channels than this a bin takes longer to begin than to pool.
constexpr int64_t kChannelsOfBin = 8;

// Forward, for few taps in any layout: `rows` and `columns` are bins from offsets. Bins of one or two samples have two
// to four taps along each axis, and loops of a length that is known.
template <typename scalar_t, typename T>
void pool_taps(const Sparse<T>& rows, const Sparse<T>& columns, const PoolCall<scalar_t>& call) {
  if (call.channels < kChannelsOfBin && are_pairs(rows.begin, rows.rows) && are_pairs(columns.begin, columns.rows)) {
    return pool_pairs(rows, columns, call);
  }
  for (int64_t p = 0; p < rows.rows; ++p) {
    const int64_t height = rows.begin[p + 1] - rows.begin[p];
    for (int64_t q = 0; q < columns.rows; ++q) {
      switch (height) {
        case 2: pool_bin_of_rows<2>(rows, columns, p, q, call); break;
        case 3: pool_bin_of_rows<3>(rows, columns, p, q, call); break;
        case 4: pool_bin_of_rows<4>(rows, columns, p, q, call); break;
        default: pool_bin<0, 0>(rows, columns, p, q, call);
      }
    }
  }
}

}  // namespace
}  // namespace roialign
