// RoIAlign with the largest sample of each bin instead of their mean, and its gradients, on the CPU.
//
// The samples of a RoI are those of the mean, with taps of their own for each row and column of samples on the map. The
// backward passes compute them again and so know which were the largest.
#include "levels.h"
#include "sample_plans.h"
#include "slabs.h"

namespace roialign {
namespace {

constexpr int64_t kValuesAtOnce = 1 << 14;
constexpr int64_t kChannelsAtOnce = 32;

Geometry one_by_one(Geometry geometry) {
  geometry.take = Take::samples;
  return geometry;
}

// The plans of all RoIs, in passes that bound their memory.
template <typename T>
class SamplePlans {
 public:
  SamplePlans(const Tensor& rois, const Tensor& input, const Geometry& geometry, bool backward, bool corners)
      : passes(
            rois.const_data_ptr<T>(), all_rows(rois), geometry, {input.stride(2), 1, vector_lanes<T>(), 0, false}),
        geometry(geometry), backward(backward), corners(corners) {}

  int64_t count() const { return passes.count(); }
  int64_t size(int64_t pass) const { return passes.size(pass); }
  RoiSamples<T> samples_of(int64_t row) const { return passes.samples_of(row); }
  const OwnedPlan<T>& roi(int64_t k) const { return (*rois)[k]; }
  const OwnedSamplePlan<T>& samples(int64_t k) const { return owned[k]; }

  // Makes those of one pass, for roi(k) and samples(k).
  void make(int64_t pass) {
    if (held == pass) {
      return;
    }
    held = pass;
    rois = &passes.plans(pass);
    owned.resize(size(pass));
    torch::stable::parallel_for(0, size(pass), kRoisPerThread, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        owned[k].make((*rois)[k], samples_of((*rois)[k].row), geometry, vector_lanes<T>(), backward, corners);
      }
    });
  }

 private:
  static constexpr int64_t kRoisPerThread = 256;  // worth waking a thread for

  Passes<T> passes;
  const Geometry& geometry;
  bool backward, corners;
  const std::vector<OwnedPlan<T>>* rois = nullptr;
  std::vector<OwnedSamplePlan<T>> owned;
  int64_t held = -1;
};

// The call of the kernel for some channels of one RoI, of which nothing is computed yet: for the caller to complete.
template <typename scalar_t>
MaxSampleCall<scalar_t> call_for(
    const Tensor& input, const OwnedPlan<compute_t<scalar_t>>& roi,
    const OwnedSamplePlan<compute_t<scalar_t>>& samples, bool corners, int64_t channel, int64_t channels,
    Scratch<compute_t<scalar_t>>& scratch) {
  using T = compute_t<scalar_t>;
  const SamplePlan<T>& plan = samples.plan;
  const int64_t lanes = vector_lanes<T>(), values = plan.groups * lanes;
  const int64_t rows = roi.plan.rows_read * values <= kValuesAtOnce ? roi.plan.rows_read : samples.most_rows();
  MaxSampleCall<scalar_t> call{};
  call.map = values_of<scalar_t>(input) + roi.plan.image * input.stride(0) + channel * input.stride(1);
  call.channel_stride = input.stride(1);
  call.channels = channels;
  call.lanes = std::min(lanes, input.size(3));
  call.corners = corners;
  call.plan = plan;
  call.rows_at_once = rows;
  const int64_t values_of_row = plan.cells.groups > 0 ? 5 * values + roi.plan.pieces * lanes : values;
  call.scratch = scratch.room(rows * values_of_row + 2 * (plan.samples.width + lanes + plan.pooled.width));
  return call;
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
  SamplePlans<T> plans(rois, input, geometry, false, corners);
  for (int64_t pass = 0; pass < plans.count(); ++pass) {
    plans.make(pass);
    const int64_t size = plans.size(pass), blocks = (channels + kChannelsAtOnce - 1) / kChannelsAtOnce;
    for (int64_t k = 0; k < size; ++k) {
      coverage.mutable_data_ptr<T>()[plans.roi(k).row] = plans.roi(k).coverage;
    }
    const int64_t tasks = blocks * size, grain = tasks_per_thread(tasks, size * channels * cells);
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        const OwnedPlan<T>& roi = plans.roi(task % size);
        const int64_t channel = task / size * kChannelsAtOnce;
        auto call = call_for<scalar_t>(
            input, roi, plans.samples(task % size), corners, channel, std::min(kChannelsAtOnce, channels - channel),
            scratch);
        call.output = pooled + (roi.row * channels + channel) * cells;
        kernels_for<scalar_t>().pool_maxima(roi.plan, call);
      }
    });
  }
}

template <typename scalar_t>
void scatter(
    const Tensor& grad, const Tensor& input, const Tensor& rois, const Geometry& geometry, bool corners,
    Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  SamplePlans<T> plans(rois, input, geometry, true, corners);
  sum_gradient<scalar_t>(geometry, grad_input, plans.count(), [&](int64_t pass) {
    plans.make(pass);
    const int64_t size = plans.size(pass);
    return Summands<T>{size, [&, size](const Part<T>& part) {
      Scratch<T> scratch;
      for (int64_t k = 0; k < size; ++k) {
        const OwnedPlan<T>& roi = plans.roi(k);
        auto call = call_for<scalar_t>(
            input, roi, plans.samples(k), corners, part.channel, part.channels, scratch);
        add_upstream(grad, roi.row, part.channel, call);
        call.planes = part.sums + roi.plan.image * part.image_pitch;
        call.plane_size = part.plane_size;
        call.top = part.top * geometry.width;
        call.bottom = part.bottom * geometry.width;
        kernels_for<scalar_t>().scatter_maxima(roi.plan, call);
      }
    }};
  });
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
  SamplePlans<T> plans(rois, input, geometry, false, corners);
  for (int64_t pass = 0; pass < plans.count(); ++pass) {
    plans.make(pass);
    const int64_t size = plans.size(pass);
    const int64_t grain = tasks_per_thread(size, size * geometry.channels * geometry.pooled.cells());
    torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      std::vector<double> of_rows, of_columns;
      for (int64_t k = begin; k < end; ++k) {
        const OwnedPlan<T>& roi = plans.roi(k);
        of_rows.assign(roi.first_row_sample.back(), 0.0);
        of_columns.assign(roi.first_column_sample.back(), 0.0);
        if (!of_rows.empty() && !of_columns.empty()) {
          auto call = call_for<scalar_t>(
              input, roi, plans.samples(k), corners, 0, geometry.channels, scratch);
          add_upstream(grad, roi.row, 0, call);
          call.of_rows = of_rows.data();
          call.of_columns = of_columns.data();
          kernels_for<scalar_t>().scatter_maxima(roi.plan, call);
        }
        T* to = result + roi.row * 5;
        const RoiSamples<T> samples = plans.samples_of(roi.row);
        to[0] = T(0);
        write_sides(
            samples.columns, roi.first_column_sample, of_columns, geometry.columns, geometry.widen, to + 1, to + 3);
        write_sides(samples.rows, roi.first_row_sample, of_rows, geometry.rows, geometry.widen, to + 2, to + 4);
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
  dispatch(input.scalar_type(), [&, &output = output, &coverage = coverage](auto scalar) {
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
