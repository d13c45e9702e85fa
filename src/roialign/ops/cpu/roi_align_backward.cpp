// The gradient of RoIAlign with respect to the features, on the CPU.
//
// Threads share out channels and, where those are few, rows of the map. Each cell gets its summands
// from one thread in the order of the plans: the gradient is the same for any number of threads.
#include "levels.h"

namespace roialign {
namespace {

constexpr int64_t kLeastChannels = 4;     // together they read long runs of the upstream gradient
constexpr int64_t kSlabBytes = 8 << 20;   // float32 sums of a half gradient

// A part of the gradient that is summed up at once: some channels and rows of all images.
template <typename T>
struct Slab {
  int64_t first_channel, channels;
  int64_t first_row, rows;
  T* sums;
  int64_t plane_size, image_pitch;
};

// The stripes of a slab's planes [channels] x [rows] that one task takes, in all images.
template <typename T>
struct Part {
  int64_t channel, channels;  // in the slab
  int64_t top, bottom;        // rows of the slab
  T* sums;                    // of the first image and channel, from row `top` on
};

template <typename T>
void clear(const Slab<T>& slab, const Part<T>& part, const Geometry& geometry) {
  for (int64_t image = 0; image < geometry.images; ++image) {
    for (int64_t channel = 0; channel < part.channels; ++channel) {
      T* rows = part.sums + image * slab.image_pitch + channel * slab.plane_size;
      std::fill(rows, rows + (part.bottom - part.top) * geometry.width, T(0));
    }
  }
}

template <typename scalar_t, typename T>
void scatter_part(
    const Tensor& grad, const Geometry& geometry, const Slab<T>& slab, const Part<T>& part,
    const OwnedPlan<T>& owned, Scratch<T>& scratch) {
  const RoiPlan<T>& plan = owned.plan;
  const int64_t lanes = vector_lanes<T>();
  const int64_t values = plan.pieces * lanes + geometry.pooled.width;
  const int64_t bins = Scratch<T>::bins_at_once(values, geometry.pooled.height);
  kernels_for<scalar_t>().scatter_planes(
      plan,
      {values_of<scalar_t>(grad) + owned.row * grad.stride(0) +
           (slab.first_channel + part.channel) * grad.stride(1),
       grad.stride(1), grad.stride(2), grad.stride(3), part.channels, std::min(lanes, geometry.width), bins,
       geometry.pooled, scratch.room_for(bins, values), part.sums + plan.image * slab.image_pitch,
       slab.plane_size, (slab.first_row + part.top) * geometry.width,
       (slab.first_row + part.bottom) * geometry.width});
}

template <typename scalar_t, typename T>
void scatter_slab(const Tensor& grad, const Geometry& geometry, Passes<T>& passes, const Slab<T>& slab) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t stripes = std::clamp<int64_t>(2 * threads / std::max<int64_t>(slab.channels, 1), 1, slab.rows);
  const int64_t block = channels_at_once(
      slab.channels, slab.plane_size * static_cast<int64_t>(sizeof(T)), kLeastChannels, 2 * stripes);
  const int64_t blocks = (slab.channels + block - 1) / block;
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t tasks = blocks * stripes;
    const int64_t added = passes.size(pass) * slab.channels * geometry.pooled.cells();
    const int64_t cleared = pass == 0 ? geometry.images * slab.channels * slab.plane_size : 0;
    torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, added + cleared), [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task / stripes * block, stripe = task % stripes;
        const int64_t top = slab.rows * stripe / stripes, bottom = slab.rows * (stripe + 1) / stripes;
        const Part<T> part{
            channel, std::min(block, slab.channels - channel), top, bottom,
            slab.sums + channel * slab.plane_size + top * geometry.width};
        if (pass == 0) {
          clear(slab, part, geometry);
        }
        for (int64_t k = 0; k < passes.size(pass); ++k) {
          scatter_part<scalar_t>(grad, geometry, slab, part, plans[k], scratch);
        }
      }
    });
  }
}

// Rounds the sums of a slab to the type of the gradient.
template <typename scalar_t, typename T>
void round_slab(const Slab<T>& slab, const Geometry& geometry, scalar_t* result) {
  const int64_t height = geometry.height, width = geometry.width;
  const int64_t planes = geometry.images * slab.channels;
  const int64_t grain = tasks_per_thread(planes, planes * slab.rows * width);
  torch::stable::parallel_for(0, planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / slab.channels, channel = plane % slab.channels;
      kernels_for<scalar_t>().narrow(
          slab.sums + image * slab.image_pitch + channel * slab.plane_size, slab.rows * width,
          result + ((image * geometry.channels + slab.first_channel + channel) * height + slab.first_row) * width);
    }
  });
}

template <typename scalar_t>
void scatter(const Tensor& grad, const Tensor& rois, Rows boxes, const Geometry& geometry, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const int64_t lanes = vector_lanes<T>();
  const int64_t channels = geometry.channels, height = geometry.height, width = geometry.width;
  scalar_t* result = static_cast<scalar_t*>(grad_input.mutable_data_ptr());
  prefer_large_pages(
      result, geometry.images * channels * height * width * static_cast<int64_t>(sizeof(scalar_t)));
  Passes<T> passes(rois.const_data_ptr<T>(), std::move(boxes), geometry, {width, 1, lanes, lanes, true});
  if constexpr (std::is_same_v<scalar_t, T>) {
    scatter_slab<scalar_t, T>(
        grad, geometry, passes, {0, channels, 0, height, result, height * width, channels * height * width});
  } else {
    const int64_t fitting_rows = std::max<int64_t>(
        kSlabBytes / std::max<int64_t>(geometry.images * width * static_cast<int64_t>(sizeof(T)), 1), 1);
    const int64_t rows = std::min(fitting_rows, height);
    const int64_t some = std::clamp<int64_t>(fitting_rows / height, 1, std::max<int64_t>(channels, 1));
    AlignedVector<T> sums(geometry.images * some * rows * width);
    for (int64_t channel = 0; channel < channels; channel += some) {
      for (int64_t row = 0; row < height; row += rows) {
        const Slab<T> slab{
            channel, std::min(some, channels - channel), row, std::min(rows, height - row),
            sums.data(), rows * width, some * rows * width};
        scatter_slab<scalar_t, T>(grad, geometry, passes, slab);
        round_slab<scalar_t>(slab, geometry, result);
      }
    }
  }
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
