// What the operators do with some boxes of one feature map: the only one, or a level of a pyramid.
#pragma once

#include <numeric>

#include "operator.h"

namespace roialign {

typedef std::vector<int64_t> Rows;  // of `rois`, or of what belongs to them

inline Rows all_rows(const Tensor& rois) {
  Rows rows(rois.size(0));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

inline Geometry geometry_of(
    const Tensor& input, PooledSize pooled, const AxisCells& rows, const AxisCells& columns, int64_t sampling_ratio,
    bool widen) {
  check_map(input);
  return {input.size(0), input.size(1), input.size(2), input.size(3), pooled, rows, columns, sampling_ratio, widen};
}

// Memory for the features [K, C, h, w] and the coverage [K] of all boxes.
inline std::tuple<Tensor, Tensor> new_output(const Tensor& input, const Tensor& rois, const Geometry& geometry) {
  Tensor output = torch::stable::new_empty(
      input, {rois.size(0), geometry.channels, geometry.pooled.height, geometry.pooled.width});
  prefer_large_pages(output.mutable_data_ptr(), output.numel() * output.element_size());
  return {output, torch::stable::new_empty(rois, {rois.size(0)})};
}

// Maps whose columns or whose channels are neighbours in memory are read where they are.
inline Tensor readable(const Tensor& input) {
  return has_dense_rows(input) || input.stride(1) == 1 ? input : torch::stable::contiguous(input);
}

// Writes the features and the coverage of `rows`.
void pool_level(
    const Tensor& input, const Tensor& rois, Rows rows, const Geometry& geometry, Tensor& output, Tensor& coverage);

// The gradient [N, C, H, W] to the features of one map, of the boxes `rows`.
Tensor scatter_level(const Tensor& grad, const Tensor& rois, Rows rows, const Geometry& geometry);

// Writes the gradient to the boxes `rows`.
void correlate_level(
    const Tensor& grad, const Tensor& input, const Tensor& rois, Rows rows, const Geometry& geometry,
    Tensor& grad_rois);

}  // namespace roialign
