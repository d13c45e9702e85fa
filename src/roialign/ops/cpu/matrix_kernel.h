// Products with the matrix [bins, cells] of a RoI, compiled once for each instruction set.
//
// Such a matrix knows no rows and columns, so vectors are always channels. The values of the cells that
// a RoI reads are put side by side, a vector of channels for each cell; each cell is read once, in
// whatever order the map is in memory. All sums are over the taps alone: exact for any values.
#pragma once

#include "vectors.h"
#include "kernels.h"

namespace roialign {
namespace {

// tile[i, lane] = from[offsets[i] + lane * channel_stride], and zeros beyond `lanes`.
template <int L, typename scalar_t, typename T>
inline void load_tile(
    const scalar_t* from, const int64_t* offsets, int64_t count, int64_t channel_stride, int64_t lanes, T* tile) {
  if (channel_stride == 1) {
    for (int64_t i = 0; i < count; ++i) {
      const scalar_t* values = from + offsets[i];
      store<L>(tile + i * L, lanes == L ? load<L>(values) : load_first<L>(values, lanes));
    }
    return;
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const scalar_t* plane = from + lane * channel_stride;
    for (int64_t i = 0; i < count; ++i) {
      tile[i * L + lane] = widen(plane[offsets[i]]);
    }
  }
  for (int64_t lane = lanes; lane < L; ++lane) {
    for (int64_t i = 0; i < count; ++i) {
      tile[i * L + lane] = T(0);
    }
  }
}

template <typename T, int L>
inline T sum_of(Vector<T, L> value) {
  T values[L];
  store<L>(values, value);
  for (int half = L / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      values[lane] += values[lane + half];
    }
  }
  return values[0];
}

// Calls body(first, count) for as many cells at once as fit. Taps of several bins read cells in any
// order, which needs all of them; those of a single bin read each cell once, one after the other.
template <typename T, typename Body>
inline void in_parts(const MatrixPlan<T>& plan, const Body& body) {
  const int64_t most = plan.bins.rows == 1 ? kCellsAtOnce : plan.cells_read;
  for (int64_t first = 0; first < plan.cells_read; first += most) {
    body(first, most < plan.cells_read - first ? most : plan.cells_read - first);
  }
}

template <int L, typename scalar_t, typename T>
void pool_matrix(const MatrixPlan<T>& plan, const MatrixPoolCall<scalar_t>& call) {
  const Sparse<T>& bins = plan.bins;
  T* pooled = static_cast<T*>(call.scratch);
  T* cells = pooled + bins.rows * L;
  for (int64_t channel = 0; channel < call.channels; channel += L) {
    const int64_t lanes = L < call.channels - channel ? L : call.channels - channel;
    for (int64_t i = 0; i < bins.rows; ++i) {
      store<L>(pooled + i * L, Vector<T, L>{});
    }
    in_parts(plan, [&](int64_t first, int64_t count) {
      load_tile<L>(
          call.map + channel * call.channel_stride, plan.offsets + first, count, call.channel_stride, lanes, cells);
      const bool all = count == plan.cells_read;
      for (int64_t bin = 0; bin < bins.rows; ++bin) {
        Vector<T, L> sum = load<L>(pooled + bin * L);
        const int64_t end = all ? bins.begin[bin + 1] : first + count;
        for (int64_t tap = all ? bins.begin[bin] : first; tap < end; ++tap) {
          sum += bins.weight[tap] * load<L>(cells + (bins.index[tap] - first) * L);
        }
        store<L>(pooled + bin * L, sum);
      }
    });
    for (int64_t lane = 0; lane < lanes; ++lane) {
      scalar_t* output = call.output + (channel + lane) * call.output_channel_stride;
      for (int64_t bin = 0; bin < bins.rows; ++bin) {
        narrow(pooled[bin * L + lane], output + bin);
      }
    }
  }
}

template <int L, typename scalar_t, typename T>
void scatter_matrix(const MatrixPlan<T>& plan, const MatrixScatterCall<scalar_t>& call) {
  T* upstream = static_cast<T*>(call.scratch);
  T* shares = upstream + plan.bins.rows * L;
  load_tile<L>(call.grad, call.bins, plan.bins.rows, call.channel_stride, call.channels, upstream);
  for (int64_t first = 0; first < plan.cells_read; first += kCellsAtOnce) {
    const int64_t left = plan.cells_read - first;
    const int64_t count = left < kCellsAtOnce ? left : kCellsAtOnce;
    for (int64_t i = 0; i < count; ++i) {
      Vector<T, L> sum = {};
      for (int64_t tap = plan.cells.begin[first + i]; tap < plan.cells.begin[first + i + 1]; ++tap) {
        sum += plan.cells.weight[tap] * load<L>(upstream + plan.cells.index[tap] * L);
      }
      store<L>(shares + i * L, sum);
    }
    for (int64_t lane = 0; lane < call.channels; ++lane) {
      T* plane = call.planes + lane * call.plane_size;
      for (int64_t i = 0; i < count; ++i) {
        plane[plan.offsets[first + i]] += shares[i * L + lane];
      }
    }
  }
}

template <int L, typename scalar_t, typename T>
void correlate_matrix(const MatrixPlan<T>& plan, const MatrixCorrelateCall<scalar_t>& call) {
  const Sparse<T>& bins = plan.bins;
  T* upstream = static_cast<T*>(call.scratch);
  T* cells = upstream + bins.rows * L;
  for (int64_t channel = 0; channel < call.channels; channel += L) {
    const int64_t lanes = L < call.channels - channel ? L : call.channels - channel;
    load_tile<L>(
        call.grad + channel * call.channel_stride, call.bins, bins.rows, call.channel_stride, lanes, upstream);
    in_parts(plan, [&](int64_t first, int64_t count) {
      load_tile<L>(
          call.map + channel * call.map_channel_stride, plan.offsets + first, count, call.map_channel_stride, lanes,
          cells);
      const bool all = count == plan.cells_read;
      for (int64_t bin = 0; bin < bins.rows; ++bin) {
        const Vector<T, L> share = load<L>(upstream + bin * L);
        const int64_t end = all ? bins.begin[bin + 1] : first + count;
        for (int64_t tap = all ? bins.begin[bin] : first; tap < end; ++tap) {
          call.of_taps[tap] += sum_of<T, L>(share * load<L>(cells + (bins.index[tap] - first) * L));
        }
      }
    });
  }
}

}  // namespace
}  // namespace roialign
