// What the operators share: their checks, how they are handed a type, and how they share out work.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <type_traits>

#include "capability.h"
#include "memory.h"
#include "passes.h"

namespace roialign {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kCacheBytes = 1 << 19;        // of a core's own cache, what a task may count on
constexpr int64_t kValuesPerThread = 1 << 15;   // pooled values worth waking a thread for; torch's own measure

// Calls body(scalar_t{}) with the type of the features.
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
const RoiAlignKernels<scalar_t>& kernels_for() {
  const Kernels& best = best_kernels();
  if constexpr (std::is_same_v<scalar_t, double>) {
    return best.of_double;
  } else if constexpr (std::is_same_v<scalar_t, float>) {
    return best.of_float;
  } else if constexpr (std::is_same_v<scalar_t, Half>) {
    return best.of_half;
  } else {
    return best.of_bfloat16;
  }
}

// Values of type T in a vector of the kernels.
template <typename T>
int64_t vector_lanes() {
  return best_kernels().vector_bytes / static_cast<int64_t>(sizeof(T));
}

template <typename scalar_t>
const scalar_t* values_of(const Tensor& tensor) {
  return static_cast<const scalar_t*>(tensor.const_data_ptr());
}

// Memory of one thread, which grows as the RoIs ask for it.
template <typename T>
class Scratch {
 public:
  // Rows of bins that are worked on at once, in whole groups: all, unless that takes too much memory.
  static int64_t bins_at_once(int64_t values_per_bin, int64_t bins) {
    const int64_t groups = kValues / (kRowLanes * std::max<int64_t>(values_per_bin, 1));
    return std::min(std::max<int64_t>(groups, 1) * kRowLanes, bins);
  }

  // Room for so many bins, and for those that fill up their last group.
  T* room_for(int64_t bins, int64_t values_per_bin) { return room((bins + kRowLanes) * values_per_bin); }

  T* room(int64_t count) {
    if (static_cast<int64_t>(values.size()) < count) {
      values.resize(count);
    }
    return values.data();
  }

 private:
  static constexpr int64_t kValues = 1 << 14;
  AlignedVector<T> values;
};

// Channels that one task takes: as many planes as stay in a core's cache and no fewer than `least`,
// but few enough that each thread gets some of `channels` times `others` tasks.
inline int64_t channels_at_once(int64_t channels, int64_t plane_bytes, int64_t least, int64_t others) {
  const int64_t fitting = std::max(kCacheBytes / std::max<int64_t>(plane_bytes, 1), least);
  const int64_t shared = channels * others / (4 * static_cast<int64_t>(torch::stable::get_num_threads()));
  return std::clamp<int64_t>(std::min(fitting, shared), 1, std::max<int64_t>(channels, 1));
}

// Tasks worth waking a thread for, of `tasks` that pool `values` together.
inline int64_t tasks_per_thread(int64_t tasks, int64_t values) {
  return std::clamp<int64_t>(tasks * kValuesPerThread / std::max<int64_t>(values, 1), 1, std::max<int64_t>(tasks, 1));
}

inline void check_arguments(
    const Tensor& tensor, const Tensor& rois, const Geometry& geometry, int64_t columns) {
  if (geometry.images < 0 || geometry.height < 1 || geometry.width < 1) {
    fail("RA306: expected a feature map [N, C, H, W] with H >= 1 and W >= 1");
  }
  const ScalarType type = tensor.scalar_type();
  if (type != ScalarType::Double && type != ScalarType::Float && type != ScalarType::Half &&
      type != ScalarType::BFloat16) {
    fail("RA505: expected features of float64, float32, float16 or bfloat16");
  }
  if (rois.dim() != 2 || rois.size(1) != columns) {
    fail("RA207: expected boxes [K, ", columns, "]: image index, then ", columns - 1, " coordinates");
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
  for (const AxisCells& cells :
       {geometry.rows, geometry.columns, geometry.is_volume() ? geometry.planes.cells : geometry.rows}) {
    if (!(cells.scale > 0 && std::isfinite(cells.scale) && std::isfinite(cells.shift))) {
      fail("RA105: expected a finite scale above zero and a finite shift, got ", cells.scale, " and ", cells.shift);
    }
  }
}

inline void check_arguments(const Tensor& tensor, const Tensor& rois, const Geometry& geometry) {
  check_arguments(tensor, rois, geometry, geometry.box_columns());
}

inline void check_map(const Tensor& input) {
  if (input.dim() != 4) {
    fail("RA306: expected a feature map [N, C, H, W]");
  }
}

inline void check_grad(const Tensor& grad, const Tensor& rois) {
  if (grad.dim() != 4 || rois.dim() != 2 || grad.size(0) != rois.size(0)) {
    fail("RA306: expected a gradient [K, C, h, w] with one entry for each box");
  }
}

// The cells that torchvision's two arguments describe, on both axes.
inline AxisCells cells_of(double spatial_scale, bool aligned) { return {spatial_scale, aligned ? 0.5 : 0.0}; }

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Whether the cells of a row are neighbours in memory.
inline bool has_dense_rows(const Tensor& map) { return map.stride(3) == 1 || map.size(3) == 1; }

}  // namespace roialign
