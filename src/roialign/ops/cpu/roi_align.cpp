// RoIAlign on the CPU, against LibTorch's stable ABI: one binary for every Python and every torch from
// 2.10 on.
//
// out[c] = Ay * F[c] * Ax^T, where Ay and Ax hold the merged bilinear weights of a RoI's rows and
// columns. They are made once for each RoI; threads then share out RoIs and blocks of channels.
#include "levels.h"
#include "strips.h"

namespace roialign {
namespace {

constexpr int64_t kLeastChannels = 32;  // together they write long runs of the output

// How a map is read: by neighbouring cells of a plane, or by neighbouring channels of a cell.
template <typename scalar_t>
struct Layout {
  typedef compute_t<scalar_t> T;
  bool by_channel;
  PlanForm form;
  void (*pool)(const RoiPlan<T>&, const PoolCall<scalar_t>&);

  Layout(const Tensor& input, const Geometry& geometry) : by_channel(!has_dense_rows(input)) {
    const auto& kernels = kernels_for<scalar_t>();
    const int64_t lanes = vector_lanes<T>();
    const bool few_bins = 2 * geometry.pooled.width <= lanes;
    if (by_channel) {
      form = {input.stride(2), input.stride(3), 1, 0, false};
      pool = kernels.pool_channels;
    } else {
      form = {input.stride(2), 1, lanes, few_bins ? lanes / 2 : lanes, false};
      pool = few_bins ? kernels.pool_planes_of_few_bins : kernels.pool_planes;
    }
  }

  int64_t values_per_bin(const RoiPlan<T>& plan, int64_t pooled_width) const {
    return (plan.pieces + (by_channel ? pooled_width : 0)) * vector_lanes<T>();
  }
};

template <typename scalar_t>
void pool(
    const Tensor& input, const Tensor& rois, Rows rows, const Geometry& geometry, Tensor& output, Tensor& coverage) {
  using T = compute_t<scalar_t>;
  const Layout<scalar_t> layout(input, geometry);
  const scalar_t* features = values_of<scalar_t>(input);
  scalar_t* pooled = static_cast<scalar_t*>(output.mutable_data_ptr());
  T* covered = coverage.mutable_data_ptr<T>();
  const int64_t image_stride = input.stride(0), channel_stride = input.stride(1);
  const int64_t channels = geometry.channels, cells = geometry.all_bins().cells();
  const int64_t first_bin = geometry.strip.row * geometry.all_bins().width + geometry.strip.column;
  const bool is_strip = geometry.pooled.cells() < cells;  // whose channels are not neighbours in the result
  const int64_t plane_bytes = geometry.height * geometry.width * static_cast<int64_t>(sizeof(scalar_t));
  const int64_t lanes = std::min(vector_lanes<T>(), geometry.width);
  Passes<T> passes(rois.const_data_ptr<T>(), std::move(rows), geometry, layout.form);
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    const int64_t block = is_strip            ? 1
                          : layout.by_channel ? 4 * vector_lanes<T>()
                                              : channels_at_once(channels, plane_bytes, kLeastChannels, size);
    const int64_t blocks = (channels + block - 1) / block;
    for (int64_t k = 0; k < size; ++k) {
      covered[plans[k].row] = (first_bin > 0 ? covered[plans[k].row] : T(0)) + plans[k].coverage;
    }
    const auto work = [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        // Planes stay for all RoIs; of channels, RoIs that are neighbours read the same cells.
        const int64_t k = layout.by_channel ? task / blocks : task % size;
        const int64_t channel = (layout.by_channel ? task % blocks : task / size) * block;
        const RoiPlan<T>& plan = plans[k].plan;
        const int64_t values = layout.values_per_bin(plan, geometry.pooled.width);
        const int64_t bins = Scratch<T>::bins_at_once(values, geometry.pooled.height);
        layout.pool(
            plan,
            {features + plan.image * image_stride + channel * channel_stride, channel_stride,
             std::min(block, channels - channel), lanes, bins, geometry.pooled, scratch.room_for(bins, values),
             pooled + (plans[k].row * channels + channel) * cells + first_bin});
      }
    };
    const int64_t tasks = blocks * size;
    torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, size * channels * geometry.pooled.cells()), work);
  }
}

std::tuple<Tensor, Tensor> roi_align(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const AxisCells cells = cells_of(spatial_scale, aligned);
  const Geometry geometry =
      geometry_of(input, {pooled_height, pooled_width}, cells, cells, sampling_ratio, !aligned);
  check_arguments(input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  pool_level(input, rois, all_rows(rois), geometry, output, coverage);
  return {output, coverage};
}

}  // namespace

void pool_level(
    const Tensor& given_input, const Tensor& rois, Rows rows, const Geometry& geometry, Tensor& output,
    Tensor& coverage) {
  const Tensor input = readable(given_input);
  dispatch(input.scalar_type(), [&](auto scalar) {
    const Strips strips(geometry, true);
    for (int64_t strip = 0; strip < strips.count(); ++strip) {
      pool<decltype(scalar)>(input, rois, rows, strips.of(strip), output, coverage);
    }
  });
}

}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roialign::roi_align));
}
