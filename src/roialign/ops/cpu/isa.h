// The table of kernels of the instruction set that the including file is compiled for.
#pragma once

#include "matrix_kernel.h"
#include "position_sensitive_kernel.h"
#include "roi_align_backward_boxes_kernel.h"
#include "roi_align_backward_kernel.h"
#include "roi_align_kernel.h"
#include "roi_align_max_backward_kernel.h"
#include "roi_align_max_kernel.h"
#include "roi_pool_kernel.h"

namespace roialign {
namespace {

template <typename scalar_t>
constexpr RoiAlignKernels<scalar_t> roi_align_kernels() {
  constexpr int L = kVectorBytes / sizeof(compute_t<scalar_t>);
  return {
      pool_planes<L, L, scalar_t, compute_t<scalar_t>>,
      pool_planes<L, L / 2, scalar_t, compute_t<scalar_t>>,
      pool_channels<L, scalar_t, compute_t<scalar_t>>,
      pool_taps<scalar_t, compute_t<scalar_t>>,
      scatter_planes<L, scalar_t, compute_t<scalar_t>>,
      scatter_taps<scalar_t, compute_t<scalar_t>>,
      copy_narrow<L, scalar_t, compute_t<scalar_t>>,
      correlate_planes<L, scalar_t, compute_t<scalar_t>>,
      max_planes<L, scalar_t, compute_t<scalar_t>>,
      max_channels<L, scalar_t, compute_t<scalar_t>>,
      scatter_to_cells<scalar_t>,
      pool_own_planes<scalar_t, compute_t<scalar_t>>,
      scatter_own_planes<scalar_t, compute_t<scalar_t>>,
      pool_maxima<L, scalar_t, compute_t<scalar_t>>,
      scatter_maxima<L, scalar_t, compute_t<scalar_t>>,
      pool_matrix<L, scalar_t, compute_t<scalar_t>>,
      scatter_matrix<L, scalar_t, compute_t<scalar_t>>,
      correlate_matrix<L, scalar_t, compute_t<scalar_t>>,
  };
}

constexpr Kernels kernels_named(const char* name) {
  return {
      name,
      kVectorBytes,
      roi_align_kernels<double>(),
      roi_align_kernels<float>(),
      roi_align_kernels<Half>(),
      roi_align_kernels<BFloat16>(),
  };
}

}  // namespace
}  // namespace roialign
