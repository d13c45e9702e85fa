// The gradient of RoIAlign with respect to the features, on the CPU.
#include "levels.h"
#include "slabs.h"
#include "strips.h"

namespace roialign {
namespace {

template <typename scalar_t, typename T>
void scatter_part(
    const Tensor& grad, const Geometry& geometry, const Part<T>& part, const OwnedPlan<T>& owned,
    Scratch<T>& scratch) {
  const RoiPlan<T>& plan = owned.plan;
  const int64_t lanes = vector_lanes<T>();
  const int64_t values = plan.pieces * lanes + geometry.pooled.width;
  const int64_t bins = Scratch<T>::bins_at_once(values, geometry.pooled.height);
  kernels_for<scalar_t>().scatter_planes(
      plan,
      {values_of<scalar_t>(grad) + owned.row * grad.stride(0) + part.channel * grad.stride(1) +
           geometry.strip.row * grad.stride(2) + geometry.strip.column * grad.stride(3),
       grad.stride(1),
       grad.stride(2), grad.stride(3), part.channels, std::min(lanes, geometry.width), bins, geometry.pooled,
       scratch.room_for(bins, values), part.sums + plan.image * part.image_pitch, part.plane_size,
       part.top * geometry.width, part.bottom * geometry.width});
}

template <typename scalar_t>
void scatter(const Tensor& grad, const Tensor& rois, Rows boxes, const Geometry& geometry, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const int64_t lanes = vector_lanes<T>();
  PassesOfStrips<T> passes(
      rois.const_data_ptr<T>(), std::move(boxes), geometry, {geometry.width, 1, lanes, lanes, true});
  sum_gradient<scalar_t>(geometry, grad_input, passes.count(), [&](int64_t pass) {
    auto& held = passes.at(pass);
    const auto& plans = held.passes.plans(pass);
    const int64_t rois_of_pass = held.passes.size(pass);
    return Summands<T>{rois_of_pass, [&, rois_of_pass](const Part<T>& part) {
      Scratch<T> scratch;
      for (int64_t k = 0; k < rois_of_pass; ++k) {
        scatter_part<scalar_t>(grad, held.strip, part, plans[k], scratch);
      }
    }};
  });
}

Tensor roi_align_backward(
    const Tensor& grad, const Tensor& given_rois, int64_t images, int64_t height, int64_t width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  check_grad(grad, given_rois);
  const AxisCells cells = cells_of(spatial_scale, aligned);
  const Geometry geometry{
      images, grad.size(1), height, width, {grad.size(2), grad.size(3)}, cells, cells, sampling_ratio, !aligned};
  check_arguments(grad, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  return scatter_level(grad, rois, all_rows(rois), geometry);
}

}  // namespace

Tensor scatter_level(const Tensor& grad, const Tensor& rois, Rows rows, const Geometry& geometry) {
  Tensor grad_input = torch::stable::new_empty(
      grad, {geometry.images, geometry.channels, geometry.height, geometry.width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    scatter<decltype(scalar)>(grad, rois, std::move(rows), geometry, grad_input);
  });
  return grad_input;
}

}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_backward", TORCH_BOX(&roialign::roi_align_backward));
}
