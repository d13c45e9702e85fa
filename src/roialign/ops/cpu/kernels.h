// The kernels of one instruction set, as a table of functions, and how to get the best one.
#pragma once

#include "types.h"

namespace roialign {

// One RoI forward: `channels` planes, from `map` on, of the RoI's image.
template <typename scalar_t>
struct PoolCall {
  const scalar_t* map;
  int64_t channel_stride;
  int64_t channels;
  int64_t lanes;         // cells that a piece reads: fewer than a vector only where the map is narrower
  int64_t bins_at_once;  // rows of bins that `scratch` has room for
  PooledSize pooled;
  void* scratch;
  scalar_t* output;
};

// One RoI backward: adds to `channels` planes, of which `planes` holds rows from element `top` on and
// up to element `bottom`.
template <typename scalar_t>
struct ScatterCall {
  const scalar_t* grad;
  int64_t channel_stride, row_stride, column_stride;
  int64_t channels;
  int64_t lanes;
  int64_t bins_at_once;
  PooledSize pooled;
  void* scratch;
  compute_t<scalar_t>* planes;
  int64_t plane_size;
  int64_t top, bottom;
};

// One RoI backward to its box: for each tap of a row of the sparse matrices, what multiplies its weight
// in the sum of output times upstream gradient, added up over `channels`.
template <typename scalar_t>
struct CorrelateCall {
  const scalar_t* map;
  int64_t map_channel_stride;
  const scalar_t* grad;
  int64_t channel_stride, row_stride, column_stride;
  int64_t channels;
  int64_t lanes;
  PooledSize pooled;
  void* scratch;
  double* of_rows;
  double* of_columns;
};

// Some bins of one RoI forward: `channels` planes, from `map` on, of the RoI's image.
template <typename scalar_t>
struct MatrixPoolCall {
  const scalar_t* map;
  int64_t channel_stride;
  int64_t channels;
  void* scratch;
  scalar_t* output;
  int64_t output_channel_stride;
};

// Some bins of one RoI backward: adds to `channels` planes, of no more channels than a vector has lanes.
template <typename scalar_t>
struct MatrixScatterCall {
  const scalar_t* grad;
  int64_t channel_stride;
  const int64_t* bins;  // where the bins are in `grad`, in elements
  int64_t channels;
  void* scratch;
  compute_t<scalar_t>* planes;
  int64_t plane_size;
};

// The gradient to the matrix: adds to `of_taps`, for each tap of its bins, the sum over `channels` of
// gradient times feature.
template <typename scalar_t>
struct MatrixCorrelateCall {
  const scalar_t* map;
  int64_t map_channel_stride;
  const scalar_t* grad;
  int64_t channel_stride;
  const int64_t* bins;
  int64_t channels;
  void* scratch;
  double* of_taps;
};

template <typename scalar_t>
struct RoiAlignKernels {
  typedef compute_t<scalar_t> T;
  void (*pool_planes)(const RoiPlan<T>&, const PoolCall<scalar_t>&);
  void (*pool_planes_of_few_bins)(const RoiPlan<T>&, const PoolCall<scalar_t>&);  // half a vector of bins
  void (*pool_channels)(const RoiPlan<T>&, const PoolCall<scalar_t>&);
  void (*scatter_planes)(const RoiPlan<T>&, const ScatterCall<scalar_t>&);
  void (*narrow)(const T* from, int64_t count, scalar_t* to);
  void (*correlate_planes)(const RoiPlan<T>&, const CorrelateCall<scalar_t>&);
  void (*pool_matrix)(const MatrixPlan<T>&, const MatrixPoolCall<scalar_t>&);
  void (*scatter_matrix)(const MatrixPlan<T>&, const MatrixScatterCall<scalar_t>&);
  void (*correlate_matrix)(const MatrixPlan<T>&, const MatrixCorrelateCall<scalar_t>&);
};

struct Kernels {
  const char* name;
  int64_t vector_bytes;
  RoiAlignKernels<double> of_double;
  RoiAlignKernels<float> of_float;
  RoiAlignKernels<Half> of_half;
  RoiAlignKernels<BFloat16> of_bfloat16;
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace roialign
