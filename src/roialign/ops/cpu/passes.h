// The plans of all RoIs, made once for all channels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "order.h"
#include "plan.h"

namespace roialign {

// Plans of some RoIs, in passes that bound their memory. RoIs of bad values are reported before any
// plan is made, in the order given.
template <typename T>
class Passes {
 public:
  Passes(const T* rois, std::vector<int64_t> rows, const Geometry& geometry, const PlanForm& form)
      : rois(rois), geometry(geometry), form(form),
        order(rois, geometry.box_columns(), std::move(rows), [this](int64_t row) { return bytes_of(samples_of(row)); }) {}

  int64_t count() const { return order.passes(); }
  int64_t size(int64_t pass) const { return order.size(pass); }

  // Where the samples of one box lie.
  RoiSamples<T> samples_of(int64_t row) const {
    return RoiSamples<T>(rois + row * geometry.box_columns(), row, geometry);
  }

  const std::vector<OwnedPlan<T>>& plans(int64_t pass) {
    if (held != pass) {
      held = pass;
      owned.resize(size(pass));
      torch::stable::parallel_for(0, size(pass), kRoisPerThread, [&](int64_t begin, int64_t end) {
        Planner<T> planner(form);
        for (int64_t k = begin; k < end; ++k) {
          owned[k].row = order.row(pass, k);
          planner.make(samples_of(owned[k].row), owned[k]);
        }
      });
    }
    return owned;
  }

 private:
  static constexpr int64_t kRoisPerThread = 128;  // worth waking a thread for

  const T* rois;
  const Geometry& geometry;
  PlanForm form;
  Order order;
  std::vector<OwnedPlan<T>> owned;
  int64_t held = -1;

  // An estimate: the cells that a RoI reads along each axis, and what is kept of each.
  double bytes_of(const RoiSamples<T>& samples) const {
    const double planes = samples.planes.pooled > 0 ? cells_of(samples.planes) : 1;
    const double columns = cells_of(samples.columns), rows = cells_of(samples.rows) * planes;
    const double bins = static_cast<double>(geometry.pooled.height + geometry.pooled.width);
    const double vectors = form.backward ? columns / form.lanes + static_cast<double>(samples.columns.pooled) : columns;
    return sizeof(OwnedPlan<T>) + vectors * static_cast<double>(form.vector_lanes * sizeof(T)) +
        32 * (columns + rows + 3 * bins);
  }

  double cells_of(const AxisSamples<T>& samples) const {
    const double span = std::min(
        std::abs(static_cast<double>(samples.bin)) * static_cast<double>(samples.pooled),
        static_cast<double>(samples.extent));
    const double taps = 2 * static_cast<double>(samples.grid) * static_cast<double>(samples.pooled);
    if (samples.take == Take::integral) {
      return span + 3;
    }
    if (samples.take == Take::samples) {  // each reads two cells; of adaptive ones there is about one for each cell
      const double about_one_a_cell = 2 * (span + static_cast<double>(samples.pooled)) + 6;
      return std::max(geometry.sampling_ratio > 0 ? taps : std::min(taps, about_one_a_cell), 0.0);
    }
    return std::max(std::min(span + 3, taps), 0.0);
  }
};

}  // namespace roialign
