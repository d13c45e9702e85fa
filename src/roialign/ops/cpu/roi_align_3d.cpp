// RoIAlign of volumes on the CPU: the planes of a volume are the rows of one map, one below the other, and what a
// row of bins reads of it are planes times rows. The kernels are those of maps.
#include "levels.h"

namespace roialign {
namespace {

struct Scales {
  double z, y, x;
};

constexpr int64_t kMostBins = int64_t{1} << 31;  // along one axis

Geometry geometry_of_volume(
    int64_t images, int64_t channels, int64_t depth, int64_t height, int64_t width, int64_t pooled_depth,
    PooledSize pooled, const Scales& scales, int64_t sampling_ratio, bool aligned) {
  if (depth < 1 || height < 1) {
    fail("RA306: expected a volume [N, C, D, H, W] with D, H and W >= 1");
  }
  if (pooled_depth < 1 || pooled_depth >= kMostBins || pooled.height < 1 || pooled.height >= kMostBins) {
    fail("RA506: expected an output of at least 1 x 1 x 1");
  }
  const double shift = aligned ? 0.5 : 0.0;
  if (!(scales.z > 0)) {
    fail("RA105: expected a finite scale above zero, got ", scales.z);
  }
  return {
      images,         channels, depth * height, width, {pooled_depth * pooled.height, pooled.width},
      {scales.y, shift}, {scales.x, shift}, sampling_ratio, !aligned, Take::mean,
      {depth, pooled_depth, {scales.z, shift}}};
}

// The volume as a map of all its planes' rows.
Tensor as_map(const Tensor& volume) {
  if (volume.dim() != 5) {
    fail("RA306: expected a volume [N, C, D, H, W]");
  }
  return torch::stable::flatten(volume, 2, 3);
}

void check_grad_of_volume(const Tensor& grad, const Tensor& rois) {
  if (grad.dim() != 5 || rois.dim() != 2 || grad.size(0) != rois.size(0)) {
    fail("RA306: expected a gradient [K, C, d, h, w] with one entry for each box");
  }
}

std::tuple<Tensor, Tensor> roi_align_3d(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_depth, int64_t pooled_height,
    int64_t pooled_width, double scale_z, double scale_y, double scale_x, int64_t sampling_ratio, bool aligned) {
  const Tensor map = as_map(input);
  const Geometry geometry = geometry_of_volume(
      input.size(0), input.size(1), input.size(2), input.size(3), input.size(4), pooled_depth,
      {pooled_height, pooled_width}, {scale_z, scale_y, scale_x}, sampling_ratio, aligned);
  check_arguments(map, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(map, rois, geometry);
  pool_level(map, rois, all_rows(rois), geometry, output, coverage);
  return {
      torch::stable::view(output, {rois.size(0), geometry.channels, pooled_depth, pooled_height, pooled_width}),
      coverage};
}

Tensor roi_align_3d_backward(
    const Tensor& grad, const Tensor& given_rois, int64_t images, int64_t depth, int64_t height, int64_t width,
    double scale_z, double scale_y, double scale_x, int64_t sampling_ratio, bool aligned) {
  check_grad_of_volume(grad, given_rois);
  const Geometry geometry = geometry_of_volume(
      images, grad.size(1), depth, height, width, grad.size(2), {grad.size(3), grad.size(4)},
      {scale_z, scale_y, scale_x}, sampling_ratio, aligned);
  check_arguments(grad, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  const Tensor of_map = scatter_level(as_map(grad), rois, all_rows(rois), geometry);
  return torch::stable::view(of_map, {images, grad.size(1), depth, height, width});
}

Tensor roi_align_3d_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, double scale_z, double scale_y,
    double scale_x, int64_t sampling_ratio, bool aligned) {
  check_grad_of_volume(grad, given_rois);
  const Tensor map = as_map(input);
  const Geometry geometry = geometry_of_volume(
      input.size(0), input.size(1), input.size(2), input.size(3), input.size(4), grad.size(2),
      {grad.size(3), grad.size(4)}, {scale_z, scale_y, scale_x}, sampling_ratio, aligned);
  check_arguments(map, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), geometry.box_columns()});
  correlate_level(as_map(grad), map, rois, all_rows(rois), geometry, grad_rois);
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_3d", TORCH_BOX(&roialign::roi_align_3d));
  m.impl("roi_align_3d_backward", TORCH_BOX(&roialign::roi_align_3d_backward));
  m.impl("roi_align_3d_backward_boxes", TORCH_BOX(&roialign::roi_align_3d_backward_boxes));
}
