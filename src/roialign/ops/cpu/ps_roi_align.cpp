// ps_roi_align on the CPU, and its gradients: as roi_align with aligned=True, each bin from a plane of its own.
#include "box_gradient.h"
#include "position_sensitive.h"
#include "vectors.h"

namespace roialign {
namespace {

template <typename T>
class SampleRule {
 public:
  SampleRule(const T* rois, const Geometry& geometry) : rois(rois), geometry(geometry) {}

  int64_t image(int64_t row) const { return samples_of(row).image; }

  double cells(int64_t row) const {
    const RoiSamples<T> samples = samples_of(row);
    return of_axis(samples.rows) + of_axis(samples.columns);
  }

  T taps(int64_t row, AxisTaps<T>& rows, AxisTaps<T>& columns) const {
    const RoiSamples<T> samples = samples_of(row);
    rows.build(samples.rows);
    columns.build(samples.columns);
    return rows.on_map * columns.on_map / (rows.total * columns.total);
  }

  RoiSamples<T> samples_of(int64_t row) const { return RoiSamples<T>(rois + row * 5, row, geometry); }

 private:
  const T* rois;
  const Geometry& geometry;

  static double of_axis(const AxisSamples<T>& samples) {
    const double pooled = static_cast<double>(samples.pooled);
    const double span = std::min(
        std::abs(static_cast<double>(samples.bin)) * pooled, static_cast<double>(samples.extent));
    const double taps = 2 * static_cast<double>(std::max<int64_t>(samples.grid, 0)) * pooled;
    return std::min(span + 3 * pooled, taps);
  }
};

Geometry sampled_geometry(
    const Tensor& input, PooledSize pooled, double spatial_scale, int64_t sampling_ratio) {
  const AxisCells cells = cells_of(spatial_scale, true);
  return geometry_of(input, pooled, cells, cells, sampling_ratio, false);
}

inline void set_nan(double* to) { *to = std::nan(""); }
inline void set_nan(float* to) { *to = std::nanf(""); }
inline void set_nan(Half* to) { to->bits = 0x7e00; }
inline void set_nan(BFloat16* to) { to->bits = 0x7fc0; }

// What torchvision divides: nothing by no samples.
void set_empty_to_nan(const Tensor& given_rois, const Geometry& geometry, Tensor& output) {
  const Tensor rois = as_contiguous(given_rois);
  dispatch(output.scalar_type(), [&](auto scalar) {
    using T = compute_t<decltype(scalar)>;
    const SampleRule<T> rule(rois.const_data_ptr<T>(), geometry);
    const int64_t values = output.size(1) * geometry.pooled.cells();
    for (int64_t k = 0; k < rois.size(0); ++k) {
      const RoiSamples<T> samples = rule.samples_of(k);
      if (samples.rows.grid == 0 || samples.columns.grid == 0) {
        auto* of_roi = static_cast<decltype(scalar)*>(output.mutable_data_ptr()) + k * values;
        for (int64_t i = 0; i < values; ++i) {
          set_nan(of_roi + i);
        }
      }
    }
  });
}

std::tuple<Tensor, Tensor> ps_roi_align(
    const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width, double spatial_scale,
    int64_t sampling_ratio, bool nan_if_empty) {
  const Geometry geometry = sampled_geometry(input, {pooled_height, pooled_width}, spatial_scale, sampling_ratio);
  auto [output, coverage] = pool_own<SampleRule>(input, rois, geometry);
  if (nan_if_empty) {
    set_empty_to_nan(rois, geometry, output);
  }
  return {output, coverage};
}

Tensor ps_roi_align_backward(
    const Tensor& grad, const Tensor& rois, int64_t images, int64_t height, int64_t width, double spatial_scale,
    int64_t sampling_ratio) {
  check_grad(grad, rois);
  const AxisCells cells = cells_of(spatial_scale, true);
  const PooledSize pooled{grad.size(2), grad.size(3)};
  const Geometry geometry{
      images, grad.size(1) * pooled.cells(), height, width, pooled, cells, cells, sampling_ratio, false};
  return scatter_own<SampleRule>(grad, rois, geometry);
}

// The gradient to the weights of one box's taps, added up over its bins.
template <typename scalar_t>
class OwnPlanesCorrelator {
 public:
  typedef compute_t<scalar_t> T;

  OwnPlanesCorrelator(const Tensor& grad, const Tensor& input, const Geometry& geometry)
      : grad(grad), input(input), geometry(geometry) {}

  BoxGradient operator()(int64_t roi, const SampleRule<T>& rule) {
    rule.taps(roi, rows, columns);
    of_rows.assign(rows.cell.size(), 0.0);
    of_columns.assign(columns.cell.size(), 0.0);
    const RoiSamples<T> samples = rule.samples_of(roi);
    const PooledSize pooled = geometry.pooled;
    for (int64_t channel = 0; channel < geometry.channels; ++channel) {
      add_bin(
          values_of<scalar_t>(input) + samples.image * input.stride(0) + channel * input.stride(1),
          roi, channel / pooled.cells(), channel / pooled.width % pooled.height, channel % pooled.width);
    }
    return {gradient_of(samples.rows, rows, of_rows), gradient_of(samples.columns, columns, of_columns), {}};
  }

 private:
  const Tensor& grad;
  const Tensor& input;
  const Geometry& geometry;
  AxisTaps<T> rows, columns;
  std::vector<double> of_rows, of_columns;

  void add_bin(const scalar_t* plane, int64_t roi, int64_t channel, int64_t p, int64_t q) {
    const double upstream = widen(
        values_of<scalar_t>(grad)[roi * grad.stride(0) + channel * grad.stride(1) + p * grad.stride(2) +
                                  q * grad.stride(3)]);
    for (int64_t y = rows.begin[p]; y < rows.begin[p + 1]; ++y) {
      const scalar_t* row = plane + rows.cell[y] * input.stride(2);
      const double of_row = upstream * static_cast<double>(rows.weight[y]);
      double across = 0;
      for (int64_t x = columns.begin[q]; x < columns.begin[q + 1]; ++x) {
        const double value = widen(row[columns.cell[x] * input.stride(3)]);
        across += static_cast<double>(columns.weight[x]) * value;
        of_columns[x] += of_row * value;
      }
      of_rows[y] += upstream * across;
    }
  }

  static AxisGradient gradient_of(
      const AxisSamples<T>& samples, const AxisTaps<T>& taps, const std::vector<double>& of_taps) {
    const Sparse<T> sparse{samples.pooled, taps.begin.data(), taps.cell.data(), taps.weight.data()};
    return differentiate(samples, sparse, [&](int64_t tap) { return taps.cell[tap]; }, of_taps.data(), false);
  }
};

Tensor ps_roi_align_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, double spatial_scale, int64_t sampling_ratio) {
  check_grad(grad, given_rois);
  const Geometry geometry = sampled_geometry(input, {grad.size(2), grad.size(3)}, spatial_scale, sampling_ratio);
  check_arguments(input, given_rois, geometry);
  if (grad.size(1) * geometry.pooled.cells() != geometry.channels || grad.scalar_type() != input.scalar_type() ||
      !grad.is_cpu()) {
    fail("RA505: expected a gradient of the type of the features, and features with a channel for each of its bins");
  }
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  dispatch(input.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using T = compute_t<scalar_t>;
    const SampleRule<T> rule(rois.const_data_ptr<T>(), geometry);
    for (int64_t roi = 0; roi < rois.size(0); ++roi) {
      rule.samples_of(roi);  // fails here, not in a thread
    }
    T* result = grad_rois.mutable_data_ptr<T>();
    const int64_t grain = tasks_per_thread(rois.size(0), rois.size(0) * geometry.channels);
    torch::stable::parallel_for(0, rois.size(0), grain, [&](int64_t begin, int64_t end) {
      OwnPlanesCorrelator<scalar_t> correlator(grad, input, geometry);
      for (int64_t roi = begin; roi < end; ++roi) {
        write(correlator(roi, rule), geometry, result + roi * 5);
      }
    });
  });
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("ps_roi_align", TORCH_BOX(&roialign::ps_roi_align));
  m.impl("ps_roi_align_backward", TORCH_BOX(&roialign::ps_roi_align_backward));
  m.impl("ps_roi_align_backward_boxes", TORCH_BOX(&roialign::ps_roi_align_backward_boxes));
}
