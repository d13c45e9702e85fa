// RoIAlign on the CPU, forward and backward, against LibTorch's stable ABI: one binary for every
// Python and every torch from 2.10 on.
//
// out[c] = Ay * F[c] * Ax^T / samples, where Ay and Ax hold the merged bilinear weights of a RoI's
// rows and columns. Threads take ranges of (channel, RoI) forward and of channels backward, where no
// two of them then write to one plane: the gradient is the same for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "sampling.h"

namespace roialign {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Half types are read and written as they are and computed in float32.
template <typename scalar_t>
using compute_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

constexpr int64_t kRoisPerPass = 1024;   // bounds the memory of the taps
constexpr int64_t kPairsPerThread = 64;  // (channel, RoI) pairs worth waking a thread for

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

struct Geometry {
  int64_t images, channels, height, width;
  int64_t pooled_height, pooled_width;
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned;
};

template <typename T>
struct RoiTaps {
  int64_t image;
  AxisTaps<T> rows;
  AxisTaps<T> columns;
  T samples;    // the divisor
  T coverage;   // share of the samples that lie on the map
};

template <typename T>
AxisSamples<T> axis_samples(
    T low, T high, int64_t pooled, int64_t extent, const Geometry& geometry, int64_t row) {
  const T scale = static_cast<T>(geometry.spatial_scale);
  const T offset = geometry.aligned ? T(0.5) : T(0);
  const T start = low * scale - offset;
  T size = (high * scale - offset) - start;
  if (!geometry.aligned) {
    size = std::max(size, T(1));
  }
  const T bin = size / static_cast<T>(pooled);
  const bool adaptive = geometry.sampling_ratio <= 0;
  if (!std::isfinite(start) || !std::isfinite(bin) ||
      (adaptive && std::abs(std::ceil(bin)) > static_cast<T>(kMaxAdaptiveGrid))) {
    fail("RA205: box ", row, " has a coordinate that is NaN, infinite or astronomically large");
  }
  const int64_t grid =
      adaptive ? static_cast<int64_t>(std::ceil(bin)) : geometry.sampling_ratio;
  return {start, bin, grid, pooled, extent};
}

template <typename T>
void build_taps(const T* roi, int64_t row, const Geometry& geometry, RoiTaps<T>& taps) {
  const T image = roi[0];
  if (!(image >= T(0) && image < static_cast<T>(geometry.images) && image == std::floor(image))) {
    fail("RA206: box ", row, " names image ", image, " of a batch of ", geometry.images);
  }
  taps.image = static_cast<int64_t>(image);
  const auto rows = axis_samples<T>(
      roi[2], roi[4], geometry.pooled_height, geometry.height, geometry, row);
  const auto columns = axis_samples<T>(
      roi[1], roi[3], geometry.pooled_width, geometry.width, geometry, row);
  taps.rows.build(rows);
  taps.columns.build(columns);
  taps.samples = std::max(static_cast<T>(rows.grid) * static_cast<T>(columns.grid), T(1));
  const T total = static_cast<T>(std::max<int64_t>(rows.grid * rows.pooled, 1)) *
      static_cast<T>(std::max<int64_t>(columns.grid * columns.pooled, 1));
  taps.coverage = static_cast<T>(taps.rows.samples_on_map) *
      static_cast<T>(taps.columns.samples_on_map) / total;
}

template <typename scalar_t, typename T>
void pool_plane(
    const scalar_t* plane, int64_t stride_h, int64_t stride_w, const RoiTaps<T>& taps,
    const Geometry& geometry, std::vector<T>& rows_pooled, std::vector<T>& accumulated,
    scalar_t* output) {
  const int64_t pooled_width = geometry.pooled_width;
  rows_pooled.resize(taps.rows.cells.size() * pooled_width);
  for (size_t r = 0; r < taps.rows.cells.size(); ++r) {
    const scalar_t* row = plane + taps.rows.cells[r] * stride_h;
    for (int64_t q = 0; q < pooled_width; ++q) {
      T sum = 0;
      for (int64_t tap = taps.columns.bin_begin[q]; tap < taps.columns.bin_begin[q + 1]; ++tap) {
        sum += taps.columns.weights[tap] * static_cast<T>(row[taps.columns.tap_cells[tap] * stride_w]);
      }
      rows_pooled[r * pooled_width + q] = sum;
    }
  }
  accumulated.resize(pooled_width);
  for (int64_t p = 0; p < geometry.pooled_height; ++p) {
    std::fill(accumulated.begin(), accumulated.end(), T(0));
    for (int64_t tap = taps.rows.bin_begin[p]; tap < taps.rows.bin_begin[p + 1]; ++tap) {
      const T weight = taps.rows.weights[tap];
      const T* row = rows_pooled.data() + taps.rows.slots[tap] * pooled_width;
      for (int64_t q = 0; q < pooled_width; ++q) {
        accumulated[q] += weight * row[q];
      }
    }
    for (int64_t q = 0; q < pooled_width; ++q) {
      output[p * pooled_width + q] = static_cast<scalar_t>(accumulated[q] / taps.samples);
    }
  }
}

template <typename scalar_t, typename T>
void scatter_plane(
    const scalar_t* grad, const int64_t* grad_strides, const RoiTaps<T>& taps,
    const Geometry& geometry, std::vector<T>& rows_grad, T* plane) {
  const int64_t pooled_width = geometry.pooled_width;
  rows_grad.assign(taps.rows.cells.size() * pooled_width, T(0));
  for (int64_t p = 0; p < geometry.pooled_height; ++p) {
    for (int64_t tap = taps.rows.bin_begin[p]; tap < taps.rows.bin_begin[p + 1]; ++tap) {
      const T weight = taps.rows.weights[tap] / taps.samples;
      T* row = rows_grad.data() + taps.rows.slots[tap] * pooled_width;
      for (int64_t q = 0; q < pooled_width; ++q) {
        row[q] += weight * static_cast<T>(grad[p * grad_strides[2] + q * grad_strides[3]]);
      }
    }
  }
  for (size_t r = 0; r < taps.rows.cells.size(); ++r) {
    T* row = plane + taps.rows.cells[r] * geometry.width;
    for (int64_t q = 0; q < pooled_width; ++q) {
      const T value = rows_grad[r * pooled_width + q];
      for (int64_t tap = taps.columns.bin_begin[q]; tap < taps.columns.bin_begin[q + 1]; ++tap) {
        row[taps.columns.tap_cells[tap]] += taps.columns.weights[tap] * value;
      }
    }
  }
}

// Calls body(first RoI, taps) for one pass of RoIs after the other. Bad boxes are reported before
// any thread starts, in the order of the rows.
template <typename T, typename Body>
void for_each_pass(const T* rois, int64_t count, const Geometry& geometry, const Body& body) {
  std::vector<RoiTaps<T>> taps(std::min(count, kRoisPerPass));
  for (int64_t begin = 0; begin < count; begin += kRoisPerPass) {
    const int64_t size = std::min(kRoisPerPass, count - begin);
    for (int64_t k = 0; k < size; ++k) {
      build_taps(rois + (begin + k) * 5, begin + k, geometry, taps[k]);
    }
    body(begin, size, taps);
  }
}

template <typename scalar_t>
void forward(
    const Tensor& input, const Tensor& rois, const Geometry& geometry, Tensor& output,
    Tensor& coverage) {
  using T = compute_t<scalar_t>;
  const scalar_t* features = input.const_data_ptr<scalar_t>();
  scalar_t* pooled = output.mutable_data_ptr<scalar_t>();
  T* covered = coverage.mutable_data_ptr<T>();
  const int64_t stride_n = input.stride(0), stride_c = input.stride(1);
  const int64_t stride_h = input.stride(2), stride_w = input.stride(3);
  const int64_t channels = geometry.channels;
  const int64_t cell_count = geometry.pooled_height * geometry.pooled_width;
  for_each_pass<T>(
      rois.const_data_ptr<T>(), rois.size(0), geometry,
      [&](int64_t begin, int64_t size, const std::vector<RoiTaps<T>>& taps) {
        for (int64_t k = 0; k < size; ++k) {
          covered[begin + k] = taps[k].coverage;
        }
        torch::stable::parallel_for(
            0, channels * size, kPairsPerThread, [&](int64_t first, int64_t last) {
              std::vector<T> rows_pooled, accumulated;
              for (int64_t pair = first; pair < last; ++pair) {
                const int64_t c = pair / size, k = pair % size;
                pool_plane(
                    features + taps[k].image * stride_n + c * stride_c, stride_h, stride_w,
                    taps[k], geometry, rows_pooled, accumulated,
                    pooled + ((begin + k) * channels + c) * cell_count);
              }
            });
      });
}

template <typename scalar_t>
void backward(
    const Tensor& grad, const Tensor& rois, const Geometry& geometry, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const scalar_t* upstream = grad.const_data_ptr<scalar_t>();
  T* planes = grad_input.mutable_data_ptr<T>();
  const int64_t strides[4] = {grad.stride(0), grad.stride(1), grad.stride(2), grad.stride(3)};
  const int64_t channels = geometry.channels;
  const int64_t plane_size = geometry.height * geometry.width;
  for_each_pass<T>(
      rois.const_data_ptr<T>(), rois.size(0), geometry,
      [&](int64_t begin, int64_t size, const std::vector<RoiTaps<T>>& taps) {
        torch::stable::parallel_for(0, channels, 1, [&](int64_t first, int64_t last) {
          std::vector<T> rows_grad;
          for (int64_t c = first; c < last; ++c) {
            for (int64_t k = 0; k < size; ++k) {
              scatter_plane(
                  upstream + (begin + k) * strides[0] + c * strides[1], strides, taps[k],
                  geometry, rows_grad, planes + (taps[k].image * channels + c) * plane_size);
            }
          }
        });
      });
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
  if (geometry.pooled_height < 1 || geometry.pooled_width < 1) {
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

std::tuple<Tensor, Tensor> roi_align(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Tensor rois = contiguous_rois(given_rois);
  if (input.dim() != 4) {
    fail("RA306: expected a feature map [N, C, H, W]");
  }
  const Geometry geometry{
      input.size(0), input.size(1), input.size(2), input.size(3), pooled_height, pooled_width,
      spatial_scale, sampling_ratio, aligned};
  check_arguments(input, rois, geometry);
  Tensor output = torch::stable::new_empty(
      input, {rois.size(0), input.size(1), pooled_height, pooled_width});
  Tensor coverage = torch::stable::new_empty(rois, {rois.size(0)});
  THO_DISPATCH_SWITCH(
      input.scalar_type(), "roi_align",
      THO_DISPATCH_CASE(ScalarType::Double, [&] { forward<scalar_t>(input, rois, geometry, output, coverage); })
      THO_DISPATCH_CASE(ScalarType::Float, [&] { forward<scalar_t>(input, rois, geometry, output, coverage); })
      THO_DISPATCH_CASE(ScalarType::Half, [&] { forward<scalar_t>(input, rois, geometry, output, coverage); })
      THO_DISPATCH_CASE(ScalarType::BFloat16, [&] { forward<scalar_t>(input, rois, geometry, output, coverage); }));
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
      images, grad.size(1), height, width, grad.size(2), grad.size(3),
      spatial_scale, sampling_ratio, aligned};
  check_arguments(grad, rois, geometry);
  Tensor grad_input = torch::stable::new_zeros(
      rois, {images, grad.size(1), height, width});
  THO_DISPATCH_SWITCH(
      grad.scalar_type(), "roi_align_backward",
      THO_DISPATCH_CASE(ScalarType::Double, [&] { backward<scalar_t>(grad, rois, geometry, grad_input); })
      THO_DISPATCH_CASE(ScalarType::Float, [&] { backward<scalar_t>(grad, rois, geometry, grad_input); })
      THO_DISPATCH_CASE(ScalarType::Half, [&] { backward<scalar_t>(grad, rois, geometry, grad_input); })
      THO_DISPATCH_CASE(ScalarType::BFloat16, [&] { backward<scalar_t>(grad, rois, geometry, grad_input); }));
  if (grad.scalar_type() == grad_input.scalar_type()) {
    return grad_input;
  }
  return torch::stable::to(grad_input, grad.scalar_type());
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roialign::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roialign::roi_align_backward));
}
