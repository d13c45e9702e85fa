// The gradient of RoIAlign with respect to the boxes, on the CPU.
//
// Channels are taken in blocks of a fixed size, whose sums are added up in order: the gradient is the
// same for any number of threads.
#include "levels.h"

namespace roialign {
namespace {

constexpr int64_t kChannelsAtOnce = 64;

// Elements from one row of the map to the next; not 0, for the rows are told apart by it.
int64_t row_pitch(const Tensor& input) { return input.size(2) == 1 ? 1 : input.stride(2); }

// How the result changes with where a RoI starts and with its size, along one axis.
struct AxisGradient {
  double start = 0;
  double size = 0;
};

// The gradient to the weight with which a bin reads a cell; `of_taps` has it for each tap, `cell_of` a tap's cell.
template <typename T, typename CellOf>
double value_at(const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps, int64_t bin, int64_t cell) {
  int64_t low = taps.begin[bin], high = taps.begin[bin + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    cell_of(middle) < cell ? low = middle + 1 : high = middle;
  }
  return low < taps.begin[bin + 1] && cell_of(low) == cell ? of_taps[low] : 0.0;  // 0: off the map
}

template <typename T, typename CellOf>
AxisGradient differentiate_samples(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps) {
  const double grid = static_cast<double>(samples.grid), pooled = static_cast<double>(samples.pooled);
  AxisGradient gradient;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    const auto [first, last] = samples.run_on_map(bin);
    for (int64_t i = first; i < last; ++i) {
      const Bilinear<T> sample = bilinear(samples.position(bin, i), samples.extent);
      if (sample.free) {
        const double step =
            value_at(taps, cell_of, of_taps, bin, sample.high) - value_at(taps, cell_of, of_taps, bin, sample.low);
        const double by_position = step / grid;
        gradient.start += by_position;
        gradient.size += by_position * (static_cast<double>(bin) + (static_cast<double>(i) + 0.5) / grid) / pooled;
      }
    }
  }
  return gradient;
}

// A bin's mean changes with its edges by how far the surface there is from the mean.
template <typename T, typename CellOf>
AxisGradient differentiate_integrals(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps) {
  const double pooled = static_cast<double>(samples.pooled);
  AxisGradient gradient;
  for (int64_t bin = 0; bin < samples.pooled; ++bin) {
    if (taps.begin[bin] == taps.begin[bin + 1]) {
      continue;
    }
    const auto surface_at = [&](double edge) {
      if (!(edge > -1.0 && edge < static_cast<double>(samples.extent))) {
        return 0.0;
      }
      const Bilinear<double> at = bilinear_to_zero(edge, samples.extent);
      return (1.0 - at.fraction) * value_at(taps, cell_of, of_taps, bin, at.low) +
          at.fraction * value_at(taps, cell_of, of_taps, bin, at.high);
    };
    double mean = 0;
    for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
      mean += static_cast<double>(taps.weight[tap]) * of_taps[tap];
    }
    const double begin = samples.edge(bin), end = samples.edge(bin + 1);
    const double by_begin = (mean - surface_at(begin)) / (end - begin);
    const double by_end = (surface_at(end) - mean) / (end - begin);
    gradient.start += by_begin + by_end;
    gradient.size +=
        (by_begin * static_cast<double>(bin) + by_end * static_cast<double>(bin + 1)) / pooled;
  }
  return gradient;
}

template <typename T, typename CellOf>
AxisGradient differentiate(
    const AxisSamples<T>& samples, const Sparse<T>& taps, const CellOf& cell_of, const double* of_taps,
    bool widen) {
  if (samples.take == Take::integral) {
    return differentiate_integrals(samples, taps, cell_of, of_taps);
  }
  AxisGradient gradient = differentiate_samples(samples, taps, cell_of, of_taps);
  if (widen && !(samples.bin * static_cast<T>(samples.pooled) > T(1))) {
    gradient.size = 0;  // widened to one cell, whatever the box's size
  }
  return gradient;
}

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

// A RoI's gradient from one block of channels, along each axis.
struct BoxGradient {
  AxisGradient rows, columns, planes;
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
      T* to = result + plans[k].row * geometry.box_columns();
      const auto write = [&](int64_t axis, const AxisGradient& of_axis, double scale) {
        to[1 + axis] = static_cast<T>((of_axis.start - of_axis.size) * scale);
        to[1 + axis + geometry.axes()] = static_cast<T>(of_axis.size * scale);
      };
      to[0] = T(0);
      write(0, sum.columns, geometry.columns.scale);
      write(1, sum.rows, geometry.rows.scale);
      if (geometry.is_volume()) {
        write(2, sum.planes, geometry.planes.cells.scale);
      }
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
