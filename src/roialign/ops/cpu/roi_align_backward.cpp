// The gradient of RoIAlign with respect to the features, on the CPU.
#include <atomic>

#include "few_taps.h"
#include "levels.h"
#include "slabs.h"
#include "strips.h"

namespace roialign {
namespace {

// Products of a row's tap and a column's, of all bins of a RoI, up to which they are added one by one: with any number
// of channels, and for all of them together. Measured on a Xeon with AVX-512 for 1 to 256 channels.
constexpr int64_t kFewSummands = 16, kFewSummandsOfAll = 512;

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

// RoIs in the order given; what each adds to is found where it is added.
template <typename scalar_t>
void scatter_by_taps(
    const Tensor& grad, const Tensor& rois, const Rows& boxes, const Geometry& geometry, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const T* values = rois.const_data_ptr<T>();
  const auto samples_of = [&](int64_t row) {
    return RoiSamples<T>(values + row * geometry.box_columns(), row, geometry);
  };
  const int64_t strides[] = {grad.stride(0), grad.stride(1), grad.stride(2), grad.stride(3)};
  std::atomic<bool> are_bad = false;
  const auto add = [&](const Part<T>& part) {
    const int64_t top = part.top * geometry.width, bottom = part.bottom * geometry.width;
    try {
      for (const int64_t row : boxes) {
        const RoiSamples<T> samples = samples_of(row);
        const FewTaps<T> rows(samples.rows, geometry.width);
        if (rows.reach(top, bottom)) {
          const FewTaps<T> columns(samples.columns, 1);
          kernels_for<scalar_t>().scatter_taps(
              rows.matrix(), columns.matrix(),
              {values_of<scalar_t>(grad) + row * strides[0] + part.channel * strides[1], strides[1], strides[2],
               strides[3], part.channels, 0, 0, geometry.pooled, nullptr,
               part.sums + samples.image * part.image_pitch, part.plane_size, top, bottom});
        }
      }
    } catch (const std::runtime_error&) {
      are_bad = true;
    }
  };
  sum_gradient<scalar_t>(geometry, grad_input, 1, [&](int64_t) {
    return Summands<T>{static_cast<int64_t>(boxes.size()), add};
  });
  if (are_bad) {
    for (const int64_t row : boxes) {
      samples_of(row);  // reports the first of them
    }
  }
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
    const int64_t products = FewTaps<compute_t<decltype(scalar)>>::products_of_any(geometry);
    if (products > 0 && geometry.channels > 0 &&
        (products <= kFewSummands || products * geometry.channels <= kFewSummandsOfAll)) {
      scatter_by_taps<decltype(scalar)>(grad, rois, rows, geometry, grad_input);
    } else {
      scatter<decltype(scalar)>(grad, rois, std::move(rows), geometry, grad_input);
    }
  });
  return grad_input;
}

}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_backward", TORCH_BOX(&roialign::roi_align_backward));
}
