// Precise RoI pooling on the CPU: the means of bins by integration, where RoIAlign takes samples. The kernels are
// RoIAlign's; only the weights of rows and columns differ.
#include "levels.h"

namespace roialign {
namespace {

Geometry integrating(Geometry geometry) {
  geometry.take = Take::integral;
  return geometry;
}

Geometry geometry_of(const Tensor& input, PooledSize pooled, double spatial_scale) {
  const AxisCells cells = cells_of(spatial_scale, false);
  return integrating(geometry_of(input, pooled, cells, cells, 0, false));
}

std::tuple<Tensor, Tensor> prroi_pool(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale) {
  const Geometry geometry = geometry_of(input, {pooled_height, pooled_width}, spatial_scale);
  check_arguments(input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  pool_level(input, rois, all_rows(rois), geometry, output, coverage);
  return {output, coverage};
}

Tensor prroi_pool_backward(
    const Tensor& grad, const Tensor& given_rois, int64_t images, int64_t height, int64_t width,
    double spatial_scale) {
  check_grad(grad, given_rois);
  const AxisCells cells = cells_of(spatial_scale, false);
  const Geometry geometry = integrating(
      {images, grad.size(1), height, width, {grad.size(2), grad.size(3)}, cells, cells, 0, false});
  check_arguments(grad, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  return scatter_level(grad, rois, all_rows(rois), geometry);
}

Tensor prroi_pool_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, double spatial_scale) {
  check_grad(grad, given_rois);
  const Geometry geometry = geometry_of(input, {grad.size(2), grad.size(3)}, spatial_scale);
  check_arguments(input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  correlate_level(grad, input, rois, all_rows(rois), geometry, grad_rois);
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("prroi_pool", TORCH_BOX(&roialign::prroi_pool));
  m.impl("prroi_pool_backward", TORCH_BOX(&roialign::prroi_pool_backward));
  m.impl("prroi_pool_backward_boxes", TORCH_BOX(&roialign::prroi_pool_backward_boxes));
}
