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

// One RoI of roi_pool: `channels` planes, from `map` on, of the RoI's image.
template <typename scalar_t>
struct MaxCall {
  const scalar_t* map;
  int64_t channel_stride, row_pitch, column_pitch;
  int64_t channels;
  int64_t width;          // of the map
  PooledSize pooled;
  bool legacy;            // NaN and minus infinity are smaller than the smallest number, as torchvision has it
  void* scratch;
  scalar_t* output;       // of the first channel
  int32_t* maxima;        // likewise: row * width + column of the first cell of the largest value, or -1; may be null
};

// Some RoIs of a position-sensitive operator: a row of bins of one channel of the output. Each bin reads a
// plane of its own, the first of them at `map`.
template <typename scalar_t>
struct OwnPlanesCall {
  const scalar_t* map;
  int64_t image_stride, plane_stride, row_pitch, column_pitch;
  int64_t bin_row, bins;
  scalar_t* output;       // of RoI 0 of `rois`
  int64_t output_stride;  // from one RoI to the next
};

// The gradient of some RoIs of a position-sensitive operator to rows [top, bottom) of neighbouring planes of each image:
// those of some bins of a row of bins.
template <typename scalar_t>
struct OwnPlanesScatterCall {
  const scalar_t* grad;   // of RoI 0 of `rois` and the first bin
  int64_t grad_stride, column_stride;  // from one RoI, and one bin, to the next
  int64_t bin_row, first_bin, bins;
  compute_t<scalar_t>* planes;  // of the first image and bin, from row `top` on
  int64_t plane_size, image_pitch, width, top, bottom;
};

// One RoI of whose bins the largest sample counts, forward or backward: what is not null is computed. With `corners`
// the largest product of a cell and its weight counts, as in ONNX, not the largest sum of a sample's four.
template <typename scalar_t>
struct MaxSampleCall {
  const scalar_t* map;
  int64_t channel_stride;
  int64_t channels;
  int64_t lanes;
  bool corners;
  SamplePlan<compute_t<scalar_t>> plan;
  int64_t rows_at_once;  // of the map; `scratch` has room for them
  void* scratch;
  scalar_t* output;
  const scalar_t* grad;
  int64_t grad_channel_stride, grad_row_stride, grad_column_stride;
  compute_t<scalar_t>* planes;  // rows of the map from element `top` on and up to `bottom`, to add the gradient to;
  int64_t plane_size;           // the map is then contiguous
  int64_t top, bottom;
  double* of_rows;     // the gradient to the weight of the second cell that each row of samples reads
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
  void (*pool_taps)(const Sparse<T>& rows, const Sparse<T>& columns, const PoolCall<scalar_t>&);
  void (*scatter_planes)(const RoiPlan<T>&, const ScatterCall<scalar_t>&);
  void (*scatter_taps)(const Sparse<T>& rows, const Sparse<T>& columns, const ScatterCall<scalar_t>&);
  void (*narrow)(const T* from, int64_t count, scalar_t* to);
  void (*correlate_planes)(const RoiPlan<T>&, const CorrelateCall<scalar_t>&);
  void (*max_planes)(const MaxPlan&, const MaxCall<scalar_t>&);
  void (*max_channels)(const MaxPlan&, const MaxCall<scalar_t>&);
  void (*scatter_to_cells)(const int32_t* cells, const ScatterCall<scalar_t>&);
  void (*pool_own_planes)(const TapBlock<T>&, int64_t begin, int64_t end, const OwnPlanesCall<scalar_t>&);
  void (*scatter_own_planes)(const TapBlock<T>&, const OwnPlanesScatterCall<scalar_t>&);
  void (*pool_maxima)(const RoiPlan<T>&, const MaxSampleCall<scalar_t>&);
  void (*scatter_maxima)(const RoiPlan<T>&, const MaxSampleCall<scalar_t>&);
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
