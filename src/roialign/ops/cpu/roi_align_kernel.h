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

}  // namespace
}  // namespace roialign
