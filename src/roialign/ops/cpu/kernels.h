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

// One RoI of whose bins the largest sample counts, forward or backward: what is not null is computed. With `corners`
// the largest product of a cell and its weight counts, as in ONNX, not the largest sum of a sample's four.
template <typename scalar_t>
struct MaxCall {
  const scalar_t* map;
  int64_t channel_stride;
  int64_t channels;
  int64_t lanes;
  bool corners;
  SampleGrid grid;
  int64_t rows_at_once;  // of samples; `scratch` has room for them
  void* scratch;
  scalar_t* output;
  const scalar_t* grad;
  int64_t grad_channel_stride, grad_row_stride, grad_column_stride;
  compute_t<scalar_t>* planes;   // to add the gradient to the features to; the map is then contiguous
  int64_t plane_size;
  double* of_rows;     // the gradient to the weight of the second cell that each row of samples reads
  double* of_columns;
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
  void (*max_planes)(const RoiPlan<T>&, const MaxCall<scalar_t>&);
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
