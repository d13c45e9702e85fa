// roi_pool on the CPU: the largest value of each bin, whose sides are whole cells.
#include "max_plans.h"

namespace roialign {
namespace {

constexpr int64_t kLeastChannels = 32;  // together they write long runs of the output

template <typename scalar_t>
void pool(const Tensor& input, const Tensor& rois, const Geometry& geometry, bool legacy, Tensor& output,
          Tensor& coverage, int32_t* maxima) {
  using T = compute_t<scalar_t>;
  const bool by_channel = !has_dense_rows(input);
  const int64_t lanes = vector_lanes<T>();
  const auto& kernels = kernels_for<scalar_t>();
  const auto pool_roi = by_channel ? kernels.max_channels : kernels.max_planes;
  const scalar_t* features = values_of<scalar_t>(input);
  scalar_t* pooled = static_cast<scalar_t*>(output.mutable_data_ptr());
  T* covered = coverage.mutable_data_ptr<T>();
  const int64_t channels = geometry.channels, cells = geometry.pooled.cells();
  const int64_t plane_bytes = geometry.height * geometry.width * static_cast<int64_t>(sizeof(scalar_t));
  MaxPlans<T> passes(rois.const_data_ptr<T>(), all_rows(rois), geometry, by_channel ? 1 : lanes);
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    const int64_t block = by_channel ? 4 * lanes : channels_at_once(channels, plane_bytes, kLeastChannels, size);
    const int64_t blocks = (channels + block - 1) / block;
    for (int64_t k = 0; k < size; ++k) {
      covered[plans[k].row] = passes.bins_of(plans[k].row).coverage(geometry);
    }
    const int64_t tasks = blocks * size;
    torch::stable::parallel_for(
        0, tasks, tasks_per_thread(tasks, size * channels * cells), [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t k = by_channel ? task / blocks : task % size;
        const int64_t channel = (by_channel ? task % blocks : task / size) * block;
        const MaxPlan& plan = plans[k].plan;
        const int64_t values = std::max(
            2 * (plan.columns + lanes), plan.widest * (plan.right - plan.left + lanes));
        const int64_t first = (plans[k].row * channels + channel) * cells;
        pool_roi(
            plan, {features + plan.image * input.stride(0) + channel * input.stride(1), input.stride(1),
                   input.stride(2), by_channel ? input.stride(3) : 1, std::min(block, channels - channel),
                   geometry.width, geometry.pooled, legacy, scratch.room(values), pooled + first,
                   maxima == nullptr ? nullptr : maxima + first});
      }
    });
  }
}

std::tuple<Tensor, Tensor, Tensor> roi_pool(
    const Tensor& given_input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, bool legacy, bool with_maxima) {
  const AxisCells cells{spatial_scale, 0};
  const Geometry geometry = geometry_of(given_input, {pooled_height, pooled_width}, cells, cells, 1, false);
  check_arguments(given_input, given_rois, geometry);
  if (with_maxima && geometry.height > INT32_MAX / geometry.width) {
    fail("RA306: expected a map of less than 2^31 cells, where a gradient is asked for");
  }
  const Tensor input = readable(given_input);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  Tensor maxima = torch::stable::new_empty(
      rois, {with_maxima ? rois.size(0) : 0, geometry.channels, pooled_height, pooled_width}, ScalarType::Int);
  int32_t* kept = with_maxima ? maxima.mutable_data_ptr<int32_t>() : nullptr;
  prefer_large_pages(kept, with_maxima ? maxima.numel() * maxima.element_size() : 0);
  dispatch(input.scalar_type(), [&, &output = output, &coverage = coverage](auto scalar) {
    pool<decltype(scalar)>(input, rois, geometry, legacy, output, coverage, kept);
  });
  return {output, coverage, maxima};
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&roialign::roi_pool));
}
