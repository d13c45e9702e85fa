// RoIAlign on the CPU, forward and backward, against LibTorch's stable ABI: one binary for every
// Python and every torch from 2.10 on.
//
// out[c] = Ay * F[c] * Ax^T, where Ay and Ax hold the merged bilinear weights of a RoI's rows and
// columns. Threads share out channels and RoIs forward, channels and rows of the map backward, where
// each cell then gets its summands in the order of the RoIs: the gradient is the same for any number
// of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#include "capability.h"
#include "memory.h"
#include "plan.h"

namespace roialign {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kPairsPerThread = 64;        // (channel, RoI) pairs worth waking a thread for
constexpr int64_t kScratchValues = 1 << 14;    // of a thread, where one row of bins does not need more
constexpr int64_t kPlanesAtOnceBytes = 1 << 19;  // planes that stay in a core's cache
constexpr int64_t kSlabBytes = 8 << 20;        // float32 sums of a half gradient

template <typename Body>
void dispatch(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Double: return body(double{});
    case ScalarType::Float: return body(float{});
    case ScalarType::Half: return body(Half{});
    case ScalarType::BFloat16: return body(BFloat16{});
    default: fail("RA505: expected features of float64, float32, float16 or bfloat16");
  }
}

template <typename scalar_t>
const RoiAlignKernels<scalar_t>& kernels_of(const Kernels& kernels) {
  if constexpr (std::is_same_v<scalar_t, double>) {
    return kernels.of_double;
  } else if constexpr (std::is_same_v<scalar_t, float>) {
    return kernels.of_float;
  } else if constexpr (std::is_same_v<scalar_t, Half>) {
    return kernels.of_half;
  } else {
    return kernels.of_bfloat16;
  }
}

template <typename scalar_t>
const scalar_t* values_of(const Tensor& tensor) {
  return static_cast<const scalar_t*>(tensor.const_data_ptr());
}

// Rows of bins at once, in whole groups: all of them unless that takes too much memory.
int64_t rows_for(int64_t values_per_row, int64_t rows) {
  const int64_t groups = kScratchValues / (kRowLanes * std::max<int64_t>(values_per_row, 1));
  return std::min(std::max<int64_t>(groups, 1) * kRowLanes, rows);
}

// Channels that one task takes: as many planes as stay in a core's cache, but few enough that there
// are some tasks for each thread.
int64_t channels_at_once(int64_t channels, int64_t plane_bytes, int64_t others) {
  const int64_t fitting = kPlanesAtOnceBytes / std::max<int64_t>(plane_bytes, 1);
  const int64_t shared = channels * others / (4 * static_cast<int64_t>(torch::stable::get_num_threads()));
  return std::clamp<int64_t>(std::min(fitting, shared), 1, std::max<int64_t>(channels, 1));
}

// How a map is read: by neighbouring cells of a plane, or by neighbouring channels of a cell.
template <typename scalar_t>
struct Layout {
  typedef compute_t<scalar_t> T;
  bool by_channel;
  PlanForm form;
  void (*pool)(const RoiPlan<T>&, const PoolCall<scalar_t>&);

  Layout(const Tensor& input, const Geometry& geometry, const Kernels& kernels) {
    const auto& functions = kernels_of<scalar_t>(kernels);
    const int64_t lanes = kernels.vector_bytes / static_cast<int64_t>(sizeof(T));
    by_channel = input.stride(3) != 1 && geometry.width != 1;
    const bool few_bins = 2 * geometry.pooled.width <= lanes;
    if (by_channel) {
      form = {input.stride(2), input.stride(3), 1, 0, false};
      pool = functions.pool_channels;
    } else {
      form = {input.stride(2), 1, lanes, few_bins ? lanes / 2 : lanes, false};
      pool = few_bins ? functions.pool_planes_of_few_bins : functions.pool_planes;
    }
  }
};

template <typename scalar_t, typename T>
void prefetch_rows(const RoiPlan<T>& plan, const scalar_t* map, int64_t channel_stride, int64_t channels, int64_t lanes) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t row = 0; row < plan.rows_read; ++row) {
      for (int64_t piece = 0; piece < plan.pieces; ++piece) {
        const scalar_t* cells = map + channel * channel_stride + plan.row_offsets[row] + plan.starts[piece];
        __builtin_prefetch(cells, 0, 2);
        __builtin_prefetch(cells + lanes - 1, 0, 2);
      }
    }
  }
}

template <typename scalar_t>
void forward(
    const Tensor& input, const Tensor& rois, const Geometry& geometry, Tensor& output, Tensor& coverage) {
  using T = compute_t<scalar_t>;
  const Kernels& kernels = best_kernels();
  const Layout<scalar_t> layout(input, geometry, kernels);
  const int64_t vector = kernels.vector_bytes / static_cast<int64_t>(sizeof(T));
  const scalar_t* features = values_of<scalar_t>(input);
  scalar_t* pooled = static_cast<scalar_t*>(output.mutable_data_ptr());
  T* covered = coverage.mutable_data_ptr<T>();
  const int64_t image_stride = input.stride(0), channel_stride = input.stride(1);
  const int64_t channels = geometry.channels, cells = geometry.pooled.cells();
  prefer_large_pages(pooled, rois.size(0) * channels * cells * static_cast<int64_t>(sizeof(scalar_t)));
  Passes<T> passes(rois.const_data_ptr<T>(), rois.size(0), geometry, layout.form);
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    for (int64_t k = 0; k < size; ++k) {
      covered[plans[k].row] = plans[k].coverage;
    }
    const int64_t block = layout.by_channel
        ? 4 * vector
        : (getenv("BLK") ? atoi(getenv("BLK")) : channels_at_once(channels, geometry.height * geometry.width * static_cast<int64_t>(sizeof(scalar_t)), size));
    const int64_t blocks = (channels + block - 1) / block;
    const bool prefetch = getenv("PF") && !layout.by_channel && block * geometry.height * geometry.width * static_cast<int64_t>(sizeof(scalar_t)) > kPlanesAtOnceBytes;
    torch::stable::parallel_for(
        0, blocks * size, std::max<int64_t>(1, kPairsPerThread / block), [&](int64_t begin, int64_t end) {
          AlignedVector<T> scratch;
          for (int64_t task = begin; task < end; ++task) {
            const int64_t k = layout.by_channel ? task / blocks : task % size;
            const int64_t channel = (layout.by_channel ? task % blocks : task / size) * block;
            const RoiPlan<T>& plan = plans[k].plan;
            if (prefetch && k + 1 < size) {
              prefetch_rows(plans[k + 1].plan, features + plans[k + 1].plan.image * image_stride + channel * channel_stride, channel_stride, std::min(block, channels - channel), vector);
            }
            const int64_t read = plan.pieces * vector;
            const int64_t written = layout.by_channel
                ? geometry.pooled.width * vector
                : 0;
            const int64_t bins = rows_for(read + written, geometry.pooled.height);
            if (static_cast<int64_t>(scratch.size()) < (bins + kRowLanes) * (read + written)) {
              scratch.resize((bins + kRowLanes) * (read + written));
            }
            layout.pool(
                plan,
                {features + plan.image * image_stride + channel * channel_stride,
                 channel_stride,
                 std::min(block, channels - channel),
                 std::min(vector, geometry.width),
                 bins,
                 geometry.pooled,
                 scratch.data(),
                 pooled + (plans[k].row * channels + channel) * cells});
          }
        });
  }
}

// A part of the gradient that is summed up at once: some channels and rows of all images.
template <typename T>
struct Slab {
  int64_t first_channel, channels, first_row, rows;
  T* sums;
  int64_t plane_size, image_pitch;
};

template <typename scalar_t>
void scatter_slab(
    const Tensor& grad, const Geometry& geometry, Passes<compute_t<scalar_t>>& passes,
    const Slab<compute_t<scalar_t>>& slab) {
  using T = compute_t<scalar_t>;
  const Kernels& kernels = best_kernels();
  const int64_t vector = kernels.vector_bytes / static_cast<int64_t>(sizeof(T));
  const scalar_t* upstream = values_of<scalar_t>(grad);
  const int64_t block = getenv("BLK") ? atoi(getenv("BLK")) : channels_at_once(slab.channels, slab.plane_size * static_cast<int64_t>(sizeof(T)), 4);
  const int64_t blocks = (slab.channels + block - 1) / block;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t stripes = std::clamp<int64_t>(2 * threads / std::max<int64_t>(slab.channels, 1), 1, slab.rows);
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    torch::stable::parallel_for(0, blocks * stripes, 1, [&](int64_t begin, int64_t end) {
      AlignedVector<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task / stripes * block, stripe = task % stripes;
        const int64_t some = std::min(block, slab.channels - channel);
        const int64_t top = slab.rows * stripe / stripes, bottom = slab.rows * (stripe + 1) / stripes;
        T* sums = slab.sums + channel * slab.plane_size + top * geometry.width;
        if (pass == 0) {
          for (int64_t image = 0; image < geometry.images; ++image) {
            for (int64_t c = 0; c < some; ++c) {
              T* rows = sums + image * slab.image_pitch + c * slab.plane_size;
              std::fill(rows, rows + (bottom - top) * geometry.width, T(0));
            }
          }
        }
        for (int64_t k = 0; k < size; ++k) {
          const RoiPlan<T>& plan = plans[k].plan;
          const int64_t read = geometry.pooled.width, written = plan.pieces * vector;
          const int64_t bins = rows_for(read + written, geometry.pooled.height);
          if (static_cast<int64_t>(scratch.size()) < bins * (read + written)) {
            scratch.resize(bins * (read + written));
          }
          kernels_of<scalar_t>(kernels).scatter_planes(
              plan,
              {upstream + plans[k].row * grad.stride(0) + (slab.first_channel + channel) * grad.stride(1),
               grad.stride(1),
               grad.stride(2),
               grad.stride(3),
               some,
               std::min(vector, geometry.width),
               bins,
               geometry.pooled,
               scratch.data(),
               sums + plan.image * slab.image_pitch,
               slab.plane_size,
               (slab.first_row + top) * geometry.width,
               (slab.first_row + bottom) * geometry.width});
        }
      }
    });
  }
}

// Rounds the sums of a slab to the type of the gradient.
template <typename scalar_t, typename T>
void round_slab(const Slab<T>& slab, const Geometry& geometry, scalar_t* result) {
  const int64_t height = geometry.height, width = geometry.width;
  torch::stable::parallel_for(0, geometry.images * slab.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / slab.channels, channel = plane % slab.channels;
      kernels_of<scalar_t>(best_kernels()).narrow(
          slab.sums + image * slab.image_pitch + channel * slab.plane_size, slab.rows * width,
          result + ((image * geometry.channels + slab.first_channel + channel) * height + slab.first_row) * width);
    }
  });
}

template <typename scalar_t>
void backward(const Tensor& grad, const Tensor& rois, const Geometry& geometry, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const int64_t lanes = best_kernels().vector_bytes / static_cast<int64_t>(sizeof(T));
  const int64_t channels = geometry.channels, height = geometry.height, width = geometry.width;
  scalar_t* result = static_cast<scalar_t*>(grad_input.mutable_data_ptr());
  prefer_large_pages(
      result, geometry.images * channels * height * width * static_cast<int64_t>(sizeof(scalar_t)));
  Passes<T> passes(
      rois.const_data_ptr<T>(), rois.size(0), geometry, PlanForm{width, 1, lanes, lanes, true});
  if constexpr (std::is_same_v<scalar_t, T>) {
    scatter_slab<scalar_t>(
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
        scatter_slab<scalar_t>(grad, geometry, passes, slab);
        round_slab<scalar_t>(slab, geometry, result);
      }
    }
  }
}

void check_arguments(const Tensor& tensor, const Tensor& rois, const Geometry& geometry) {
  if (geometry.images < 0 || geometry.height < 1 || geometry.width < 1) {
    fail("RA306: expected a feature map [N, C, H, W] with H >= 1 and W >= 1");
  }
  const ScalarType type = tensor.scalar_type();
  if (type != ScalarType::Double && type != ScalarType::Float && type != ScalarType::Half &&
      type != ScalarType::BFloat16) {
    fail("RA505: expected features of float64, float32, float16 or bfloat16");
  }
  if (rois.dim() != 2 || rois.size(1) != 5 || !rois.is_contiguous()) {
    fail("RA207: expected contiguous boxes [K, 5]: image index, x1, y1, x2, y2");
  }
  const ScalarType expected = type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  if (rois.scalar_type() != expected || !rois.is_cpu() || !tensor.is_cpu()) {
    fail("RA505: expected boxes on the CPU in the type that the features are computed in");
  }
  if (geometry.pooled.height < 1 || geometry.pooled.width < 1) {
    fail("RA506: expected an output of at least 1 x 1");
  }
  if (geometry.sampling_ratio > kMaxSamplingRatio) {
    fail("RA506: expected a sampling_ratio of at most ", kMaxSamplingRatio);
  }
  if (!(geometry.spatial_scale > 0 && std::isfinite(geometry.spatial_scale))) {
    fail("RA105: expected a finite spatial_scale above zero, got ", geometry.spatial_scale);
  }
}

Tensor contiguous_rois(const Tensor& rois) {
  return rois.is_contiguous() ? rois : torch::stable::contiguous(rois);
}

// Maps whose columns or whose channels are neighbours in memory are read where they are.
Tensor readable(const Tensor& input) {
  const bool by_cell = input.stride(3) == 1 || input.size(3) == 1;
  const bool by_channel = input.stride(1) == 1 || input.size(1) == 1;
  return by_cell || by_channel ? input : torch::stable::contiguous(input);
}

std::tuple<Tensor, Tensor> roi_align(
    const Tensor& given_input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Tensor rois = contiguous_rois(given_rois);
  if (given_input.dim() != 4) {
    fail("RA306: expected a feature map [N, C, H, W]");
  }
  const Geometry geometry{
      given_input.size(0), given_input.size(1), given_input.size(2), given_input.size(3),
      {pooled_height, pooled_width}, spatial_scale, sampling_ratio, aligned};
  check_arguments(given_input, rois, geometry);
  const Tensor input = readable(given_input);
  Tensor output = torch::stable::new_empty(
      input, {rois.size(0), input.size(1), pooled_height, pooled_width});
  Tensor coverage = torch::stable::new_empty(rois, {rois.size(0)});
  dispatch(input.scalar_type(), [&](auto scalar) {
    forward<decltype(scalar)>(input, rois, geometry, output, coverage);
  });
  return {output, coverage};
}

Tensor roi_align_backward(
    const Tensor& grad, const Tensor& given_rois, int64_t images, int64_t height, int64_t width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Tensor rois = contiguous_rois(given_rois);
  if (grad.dim() != 4 || grad.size(0) != rois.size(0)) {
    fail("RA306: expected a gradient [K, C, h, w] with one entry for each box");
  }
  const Geometry geometry{
      images, grad.size(1), height, width, {grad.size(2), grad.size(3)},
      spatial_scale, sampling_ratio, aligned};
  check_arguments(grad, rois, geometry);
  Tensor grad_input = torch::stable::new_empty(grad, {images, grad.size(1), height, width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    backward<decltype(scalar)>(grad, rois, geometry, grad_input);
  });
  return grad_input;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roialign::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roialign::roi_align_backward));
}
