// RoIAlign with the largest sample of each bin instead of their mean, and its gradients, on the CPU.
//
// The samples of a RoI are Sy * F * Sx^T, as means are, with a row of Sy and of Sx for each sample on the map. The
// backward passes compute them again and so know which were the largest.
#include "levels.h"

namespace roialign {
namespace {

constexpr int64_t kSamplesAtOnce = 1 << 14;
constexpr int64_t kChannelsAtOnce = 32;

Geometry one_by_one(Geometry geometry) {
  geometry.take = Take::samples;
  return geometry;
}

// Calls the kernel for one RoI, with scratch memory as it needs it.
template <typename scalar_t>
class Maxima {
 public:
  typedef compute_t<scalar_t> T;

  Maxima(const Tensor& input, const Geometry& geometry, bool corners)
      : map(values_of<scalar_t>(input)), image_stride(input.stride(0)), channel_stride(input.stride(1)),
        geometry(geometry), corners(corners) {}

  // For the caller to complete: the call for some channels, of which nothing is computed yet.
  MaxSampleCall<scalar_t> call(
      const OwnedPlan<T>& owned, const RoiSamples<T>& samples, int64_t channel, int64_t channels) {
    const int64_t pitch = owned.plan.pieces * vector_lanes<T>();
    const PooledSize found{owned.first_row_sample.back(), owned.first_column_sample.back()};
    const SampleGrid grid{
        geometry.pooled, found, owned.first_row_sample.data(), owned.first_column_sample.data(), samples.rows.grid,
        samples.columns.grid};
    const int64_t values = pitch + found.width;
    int64_t rows = found.height;
    if (rows * values > kSamplesAtOnce) {  // then one row of bins after the other
      rows = 0;
      for (int64_t p = 0; p < geometry.pooled.height; ++p) {
        rows = std::max(rows, grid.first_row[p + 1] - grid.first_row[p]);
      }
    }
    T* room = scratch.room((rows + kRowLanes + 1) * (values + vector_lanes<T>()));
    MaxSampleCall<scalar_t> call{};
    call.map = map + owned.plan.image * image_stride + channel * channel_stride;
    call.channel_stride = channel_stride;
    call.channels = channels;
    call.lanes = std::min(vector_lanes<T>(), geometry.width);
    call.corners = corners;
    call.grid = grid;
    call.rows_at_once = rows;
    call.scratch = room;
    return call;
  }

 private:
  const scalar_t* map;
  int64_t image_stride, channel_stride;
  const Geometry& geometry;
  bool corners;
  Scratch<T> scratch;
};

template <typename T>
PlanForm form_of(const Tensor& input) {
  return {input.stride(2), 1, vector_lanes<T>(), vector_lanes<T>(), false};
}

template <typename scalar_t>
void add_upstream(const Tensor& grad, int64_t row, int64_t channel, MaxSampleCall<scalar_t>& call) {
  call.grad = values_of<scalar_t>(grad) + row * grad.stride(0) + channel * grad.stride(1);
  call.grad_channel_stride = grad.stride(1);
  call.grad_row_stride = grad.stride(2);
  call.grad_column_stride = grad.stride(3);
}

template <typename scalar_t>
void pool(
    const Tensor& input, const Tensor& rois, const Geometry& geometry, bool corners, Tensor& output,
    Tensor& coverage) {
  using T = compute_t<scalar_t>;
  scalar_t* pooled = static_cast<scalar_t*>(output.mutable_data_ptr());
  const int64_t channels = geometry.channels, cells = geometry.pooled.cells();
  Passes<T> passes(rois.const_data_ptr<T>(), all_rows(rois), geometry, form_of<T>(input));
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass), blocks = (channels + kChannelsAtOnce - 1) / kChannelsAtOnce;
    for (int64_t k = 0; k < size; ++k) {
      coverage.mutable_data_ptr<T>()[plans[k].row] = plans[k].coverage;
    }
    const int64_t tasks = blocks * size, grain = tasks_per_thread(tasks, size * channels * cells);
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      Maxima<scalar_t> maxima(input, geometry, corners);
      for (int64_t task = begin; task < end; ++task) {
        const OwnedPlan<T>& owned = plans[task % size];
        const int64_t channel = task / size * kChannelsAtOnce;
        auto call = maxima.call(
            owned, passes.samples_of(owned.row), channel, std::min(kChannelsAtOnce, channels - channel));
        call.output = pooled + (owned.row * channels + channel) * cells;
        kernels_for<scalar_t>().max_samples(owned.plan, call);
      }
    });
  }
}

// Each thread has channels of its own, whose planes it sums up in the order of the plans.
template <typename scalar_t>
void scatter(
    const Tensor& grad, const Tensor& input, const Tensor& rois, const Geometry& geometry, bool corners,
    Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  scalar_t* result = static_cast<scalar_t*>(grad_input.mutable_data_ptr());
  const int64_t channels = geometry.channels, plane = geometry.height * geometry.width;
  const int64_t block = channels_at_once(channels, plane * static_cast<int64_t>(sizeof(T)), 1, 1);
  const int64_t blocks = (channels + block - 1) / block;
  Passes<T> passes(rois.const_data_ptr<T>(), all_rows(rois), geometry, form_of<T>(input));
  std::vector<AlignedVector<T>> sums(std::is_same_v<scalar_t, T> ? 0 : blocks);
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t values = rois.size(0) * channels * geometry.pooled.cells() + geometry.images * channels * plane;
    torch::stable::parallel_for(0, blocks, tasks_per_thread(blocks, values), [&](int64_t begin, int64_t end) {
      Maxima<scalar_t> maxima(input, geometry, corners);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task * block, count = std::min(block, channels - channel);
        int64_t image_pitch = channels * plane;
        T* planes;
        if constexpr (std::is_same_v<scalar_t, T>) {
          planes = result + channel * plane;
        } else {
          image_pitch = count * plane;
          sums[task].resize(geometry.images * image_pitch);
          planes = sums[task].data();
        }
        for (int64_t image = 0; pass == 0 && image < geometry.images; ++image) {
          std::fill_n(planes + image * image_pitch, count * plane, T(0));
        }
        for (int64_t k = 0; k < passes.size(pass); ++k) {
          const OwnedPlan<T>& owned = plans[k];
          auto call = maxima.call(owned, passes.samples_of(owned.row), channel, count);
          add_upstream(grad, owned.row, channel, call);
          call.planes = planes + owned.plan.image * image_pitch;
          call.plane_size = plane;
          kernels_for<scalar_t>().max_samples(owned.plan, call);
        }
        if (!std::is_same_v<scalar_t, T> && pass + 1 == passes.count()) {
          for (int64_t image = 0; image < geometry.images; ++image) {
            kernels_for<scalar_t>().narrow(
                planes + image * image_pitch, count * plane, result + (image * channels + channel) * plane);
          }
        }
      }
    });
  }
}

// From the gradient to the positions of the rows or columns of samples to that of the box's two sides.
template <typename T>
void write_sides(
    const AxisSamples<T>& samples, const std::vector<int64_t>& first_sample, const std::vector<double>& of_samples,
    const AxisCells& cells, bool widen, T* low, T* high) {
  const double grid = static_cast<double>(samples.grid), pooled = static_cast<double>(samples.pooled);
  double of_start = 0, of_size = 0;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    const int64_t first = samples.run_on_map(bin).first;
    for (int64_t place = first_sample[bin]; place < first_sample[bin + 1]; ++place) {
      const int64_t i = first + place - first_sample[bin];
      if (bilinear(samples.position(bin, i), samples.extent).free) {
        of_start += of_samples[place];
        of_size += of_samples[place] * (static_cast<double>(bin) + (static_cast<double>(i) + 0.5) / grid) / pooled;
      }
    }
  }
  if (widen && !(samples.bin * static_cast<T>(samples.pooled) > T(1))) {
    of_size = 0;  // widened to one cell, whatever the box's size
  }
  *low = static_cast<T>((of_start - of_size) * cells.scale);
  *high = static_cast<T>(of_size * cells.scale);
}

template <typename scalar_t>
void correlate(
    const Tensor& grad, const Tensor& input, const Tensor& rois, const Geometry& geometry, bool corners,
    Tensor& grad_rois) {
  using T = compute_t<scalar_t>;
  T* result = grad_rois.mutable_data_ptr<T>();
  Passes<T> passes(rois.const_data_ptr<T>(), all_rows(rois), geometry, form_of<T>(input));
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    const int64_t grain = tasks_per_thread(size, size * geometry.channels * geometry.pooled.cells());
    torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
      Maxima<scalar_t> maxima(input, geometry, corners);
      std::vector<double> of_rows, of_columns;
      for (int64_t k = begin; k < end; ++k) {
        const OwnedPlan<T>& owned = plans[k];
        const RoiSamples<T> samples = passes.samples_of(owned.row);
        of_rows.assign(owned.first_row_sample.back(), 0.0);
        of_columns.assign(owned.first_column_sample.back(), 0.0);
        if (!of_rows.empty() && !of_columns.empty()) {
          auto call = maxima.call(owned, samples, 0, geometry.channels);
          add_upstream(grad, owned.row, 0, call);
          call.of_rows = of_rows.data();
          call.of_columns = of_columns.data();
          kernels_for<scalar_t>().max_samples(owned.plan, call);
        }
        T* to = result + owned.row * 5;
        to[0] = T(0);
        write_sides(
            samples.columns, owned.first_column_sample, of_columns, geometry.columns, geometry.widen, to + 1, to + 3);
        write_sides(samples.rows, owned.first_row_sample, of_rows, geometry.rows, geometry.widen, to + 2, to + 4);
      }
    });
  }
}

void check_backward(const Tensor& grad, const Tensor& input, const Tensor& rois) {
  check_grad(grad, rois);
  if (input.dim() != 4 || grad.size(1) != input.size(1) || grad.scalar_type() != input.scalar_type() ||
      !grad.is_cpu()) {
    fail("RA505: expected a gradient of the type and with the channels of the features");
  }
}

Geometry geometry_of(
    const Tensor& input, PooledSize pooled, double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const AxisCells cells = cells_of(spatial_scale, aligned);
  return one_by_one(geometry_of(input, pooled, cells, cells, sampling_ratio, !aligned));
}

std::tuple<Tensor, Tensor> roi_align_max(
    const Tensor& given_input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned, bool corners) {
  const Geometry geometry =
      geometry_of(given_input, {pooled_height, pooled_width}, spatial_scale, sampling_ratio, aligned);
  check_arguments(given_input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  const Tensor input = has_dense_rows(given_input) ? given_input : torch::stable::contiguous(given_input);
  auto [output, coverage] = new_output(input, rois, geometry);
  dispatch(input.scalar_type(), [&](auto scalar) {
    pool<decltype(scalar)>(input, rois, geometry, corners, output, coverage);
  });
  return {output, coverage};
}

Tensor roi_align_max_backward(
    const Tensor& grad, const Tensor& given_input, const Tensor& given_rois, double spatial_scale,
    int64_t sampling_ratio, bool aligned, bool corners) {
  check_backward(grad, given_input, given_rois);
  const Geometry geometry =
      geometry_of(given_input, {grad.size(2), grad.size(3)}, spatial_scale, sampling_ratio, aligned);
  check_arguments(given_input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois), input = as_contiguous(given_input);
  Tensor grad_input = torch::stable::new_empty(
      input, {geometry.images, geometry.channels, geometry.height, geometry.width});
  prefer_large_pages(grad_input.mutable_data_ptr(), grad_input.numel() * grad_input.element_size());
  dispatch(input.scalar_type(), [&](auto scalar) {
    scatter<decltype(scalar)>(grad, input, rois, geometry, corners, grad_input);
  });
  return grad_input;
}

Tensor roi_align_max_backward_boxes(
    const Tensor& grad, const Tensor& given_input, const Tensor& given_rois, double spatial_scale,
    int64_t sampling_ratio, bool aligned, bool corners) {
  check_backward(grad, given_input, given_rois);
  const Geometry geometry =
      geometry_of(given_input, {grad.size(2), grad.size(3)}, spatial_scale, sampling_ratio, aligned);
  check_arguments(given_input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  const Tensor input = as_contiguous(given_input);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  dispatch(input.scalar_type(), [&](auto scalar) {
    correlate<decltype(scalar)>(grad, input, rois, geometry, corners, grad_rois);
  });
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_max", TORCH_BOX(&roialign::roi_align_max));
  m.impl("roi_align_max_backward", TORCH_BOX(&roialign::roi_align_max_backward));
  m.impl("roi_align_max_backward_boxes", TORCH_BOX(&roialign::roi_align_max_backward_boxes));
}
