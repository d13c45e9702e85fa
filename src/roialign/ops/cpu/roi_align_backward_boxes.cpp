// The gradient of RoIAlign with respect to the boxes, on the CPU.
//
// Channels are taken in blocks of a fixed size, whose sums are added up in order: the gradient is the
// same for any number of threads.
#include "box_gradient.h"
#include "levels.h"

namespace roialign {
namespace {

constexpr int64_t kChannelsAtOnce = 64;

// Elements from one row of the map to the next; not 0, for the rows are told apart by it.
int64_t row_pitch(const Tensor& input) { return input.size(2) == 1 ? 1 : input.stride(2); }

// Takes apart what belongs to the rows of a volume: each tap is one of a plane, times one of its rows.
template <typename T>
class VolumeRows {
 public:
  AxisGradient of_planes, of_rows;

  VolumeRows(const RoiSamples<T>& samples, const double* of_taps, bool widen) {
    AxisTaps<T> planes, rows;
    planes.build(samples.planes);
    rows.build(samples.rows);
    std::vector<double> by_plane(planes.cell.size(), 0.0), by_row(rows.cell.size(), 0.0);
    for (int64_t upper = 0; upper < samples.planes.pooled; ++upper) {
      for (int64_t bin = 0; bin < samples.rows.pooled; ++bin) {
        for (int64_t z = planes.begin[upper]; z < planes.begin[upper + 1]; ++z) {
          for (int64_t y = rows.begin[bin]; y < rows.begin[bin + 1]; ++y, ++of_taps) {
            by_plane[z] += *of_taps * static_cast<double>(rows.weight[y]);
            by_row[y] += *of_taps * static_cast<double>(planes.weight[z]);
          }
        }
      }
    }
    of_planes = along(samples.planes, planes, by_plane, widen);
    of_rows = along(samples.rows, rows, by_row, widen);
  }

 private:
  static AxisGradient along(
      const AxisSamples<T>& samples, const AxisTaps<T>& taps, const std::vector<double>& of_taps, bool widen) {
    const Sparse<T> matrix{samples.pooled, taps.begin.data(), taps.cell.data(), taps.weight.data()};
    return differentiate(samples, matrix, [&](int64_t tap) { return taps.cell[tap]; }, of_taps.data(), widen);
  }
};

template <typename scalar_t>
class Correlator {
 public:
  typedef compute_t<scalar_t> T;

  Correlator(const Tensor& grad, const Tensor& input, const Geometry& geometry)
      : grad(grad), input(input), geometry(geometry) {}

  BoxGradient operator()(const OwnedPlan<T>& owned, const RoiSamples<T>& samples, int64_t channel, int64_t channels) {
    const RoiPlan<T>& plan = owned.plan;
    const int64_t lanes = vector_lanes<T>(), pitch = plan.pieces * lanes;
    const PooledSize pooled = geometry.pooled;
    of_rows.assign(plan.rows.begin[plan.rows.rows], 0.0);
    of_columns.assign(plan.columns.begin[plan.columns.rows], 0.0);
    T* room = scratch.room(
        (pooled.height + plan.rows_read + 1) * pitch + plan.rows_read * pooled.width + pooled.cells());
    kernels_for<scalar_t>().correlate_planes(
        plan,
        {values_of<scalar_t>(input) + plan.image * input.stride(0) + channel * input.stride(1), input.stride(1),
         values_of<scalar_t>(grad) + owned.row * grad.stride(0) + channel * grad.stride(1), grad.stride(1),
         grad.stride(2), grad.stride(3), channels, std::min(lanes, geometry.width), pooled, room,
         of_rows.data(), of_columns.data()});
    const auto row_of = [&](int64_t tap) { return plan.rows.index[tap] / row_pitch(input); };
    const auto column_of = [&](int64_t tap) {
      const int64_t slot = plan.columns.index[tap];
      return plan.starts[slot / lanes] + slot % lanes;
    };
    BoxGradient gradient;
    gradient.columns = differentiate(samples.columns, plan.columns, column_of, of_columns.data(), geometry.widen);
    if (geometry.is_volume()) {
      const VolumeRows<T> apart(samples, of_rows.data(), geometry.widen);
      gradient.rows = apart.of_rows;
      gradient.planes = apart.of_planes;
    } else {
      gradient.rows = differentiate(samples.rows, plan.rows, row_of, of_rows.data(), geometry.widen);
    }
    return gradient;
  }

 private:
  const Tensor& grad;
  const Tensor& input;
  const Geometry& geometry;
  Scratch<T> scratch;
  std::vector<double> of_rows, of_columns;
};

template <typename scalar_t>
void correlate(
    const Tensor& grad, const Tensor& input, const Tensor& rois, Rows rows, const Geometry& geometry,
    Tensor& grad_rois) {
  using T = compute_t<scalar_t>;
  T* result = grad_rois.mutable_data_ptr<T>();
  const int64_t blocks = (geometry.channels + kChannelsAtOnce - 1) / kChannelsAtOnce;
  const int64_t lanes = vector_lanes<T>();
  Passes<T> passes(
      rois.const_data_ptr<T>(), std::move(rows), geometry, {row_pitch(input), 1, lanes, lanes, false});
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& plans = passes.plans(pass);
    const int64_t size = passes.size(pass);
    std::vector<BoxGradient> parts(size * blocks);
    const int64_t grain = tasks_per_thread(size * blocks, size * geometry.channels * geometry.pooled.cells());
    torch::stable::parallel_for(0, size * blocks, grain, [&](int64_t begin, int64_t end) {
      Correlator<scalar_t> correlator(grad, input, geometry);
      for (int64_t task = begin; task < end; ++task) {
        const OwnedPlan<T>& owned = plans[task / blocks];
        const int64_t channel = task % blocks * kChannelsAtOnce;
        const RoiSamples<T> samples = passes.samples_of(owned.row);
        parts[task] = correlator(owned, samples, channel, std::min(kChannelsAtOnce, geometry.channels - channel));
      }
    });
    for (int64_t k = 0; k < size; ++k) {
      BoxGradient sum;
      for (int64_t block = 0; block < blocks; ++block) {
        const BoxGradient& part = parts[k * blocks + block];
        sum.rows.start += part.rows.start;
        sum.rows.size += part.rows.size;
        sum.columns.start += part.columns.start;
        sum.columns.size += part.columns.size;
        sum.planes.start += part.planes.start;
        sum.planes.size += part.planes.size;
      }
      write(sum, geometry, result + plans[k].row * geometry.box_columns());
    }
  }
}

Tensor roi_align_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, double spatial_scale, int64_t sampling_ratio,
    bool aligned) {
  check_grad(grad, given_rois);
  const AxisCells cells = cells_of(spatial_scale, aligned);
  const Geometry geometry =
      geometry_of(input, {grad.size(2), grad.size(3)}, cells, cells, sampling_ratio, !aligned);
  check_arguments(input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  correlate_level(grad, input, rois, all_rows(rois), geometry, grad_rois);
  return grad_rois;
}

}  // namespace

void correlate_level(
    const Tensor& grad, const Tensor& given_input, const Tensor& rois, Rows rows, const Geometry& geometry,
    Tensor& grad_rois) {
  if (grad.size(1) != geometry.channels || grad.scalar_type() != given_input.scalar_type() || !grad.is_cpu()) {
    fail("RA505: expected a gradient of the type and with the channels of the features");
  }
  const bool in_place = has_dense_rows(given_input) && row_pitch(given_input) != 0;
  const Tensor input = in_place ? given_input : torch::stable::contiguous(given_input);
  dispatch(input.scalar_type(), [&](auto scalar) {
    correlate<decltype(scalar)>(grad, input, rois, std::move(rows), geometry, grad_rois);
  });
}

}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_backward_boxes", TORCH_BOX(&roialign::roi_align_backward_boxes));
}
