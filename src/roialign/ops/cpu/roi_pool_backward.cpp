// The gradient of roi_pool with respect to the features, on the CPU: each bin's goes to the cell of its largest value,
// which the forward pass has kept.
#include "levels.h"
#include "order.h"
#include "slabs.h"

namespace roialign {
namespace {

// Fetches what is read for the next RoI, which lies anywhere.
template <typename V>
void fetch(const V* values, int64_t count) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(V));
  for (int64_t i = 0; i < count; i += line) {
    __builtin_prefetch(values + i);
  }
}

template <typename scalar_t>
void scatter(const Tensor& grad, const Tensor& maxima, const Tensor& rois, const Geometry& geometry,
             Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const T* roi = rois.const_data_ptr<T>();
  const int32_t* cells = maxima.const_data_ptr<int32_t>();
  const int64_t bins = geometry.pooled.cells();
  const Order order(roi, geometry.box_columns(), all_rows(rois), [&](int64_t row) {
    checked_image(roi[row * 5], row, geometry);
    return 0.0;
  });
  sum_gradient<scalar_t>(geometry, grad_input, order.passes(), [&](int64_t pass) {
    return Summands<T>{order.size(pass), [&, pass](const Part<T>& part) {
      const int64_t size = order.size(pass);
      for (int64_t k = 0; k < size; ++k) {
        const int64_t row = order.row(pass, k), next = order.row(pass, std::min(k + 1, size - 1));
        fetch(cells + (next * geometry.channels + part.channel) * bins, part.channels * bins);
        fetch(values_of<scalar_t>(grad) + next * grad.stride(0) + part.channel * grad.stride(1), part.channels * bins);
        kernels_for<scalar_t>().scatter_to_cells(
            cells + (row * geometry.channels + part.channel) * bins,
            {values_of<scalar_t>(grad) + row * grad.stride(0) + part.channel * grad.stride(1), grad.stride(1),
             grad.stride(2), grad.stride(3), part.channels, 0, 0, geometry.pooled, nullptr,
             part.sums + static_cast<int64_t>(roi[row * 5]) * part.image_pitch, part.plane_size,
             part.top * geometry.width, part.bottom * geometry.width});
      }
    }};
  });
}

Tensor roi_pool_backward(
    const Tensor& grad, const Tensor& given_maxima, const Tensor& given_rois, int64_t images, int64_t height,
    int64_t width) {
  check_grad(grad, given_rois);
  const Geometry geometry{
      images, grad.size(1), height, width, {grad.size(2), grad.size(3)}, {1, 0}, {1, 0}, 1, false};
  check_arguments(grad, given_rois, geometry);
  bool alike = given_maxima.dim() == 4 && given_maxima.scalar_type() == ScalarType::Int && given_maxima.is_cpu();
  for (int64_t axis = 0; alike && axis < 4; ++axis) {
    alike = given_maxima.size(axis) == grad.size(axis);
  }
  if (!alike) {
    fail("RA306: expected the cell of each value that the gradient is of, int32 and of its shape");
  }
  const Tensor maxima = as_contiguous(given_maxima), rois = as_contiguous(given_rois);
  Tensor grad_input = torch::stable::new_empty(grad, {images, geometry.channels, height, width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    scatter<decltype(scalar)>(grad, maxima, rois, geometry, grad_input);
  });
  return grad_input;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_pool_backward", TORCH_BOX(&roialign::roi_pool_backward));
}
