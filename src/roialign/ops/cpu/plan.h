// From boxes to plans: what each RoI reads and with which weights, computed once for all channels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <sstream>
#include <stdexcept>

#include "memory.h"
#include "sampling.h"
#include "types.h"

namespace roialign {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

struct Geometry {
  int64_t images, channels, height, width;
  PooledSize pooled;
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned;
};

// The form in which the kernels want their plans.
struct PlanForm {
  int64_t row_pitch;     // elements from one row of the map to the next
  int64_t column_pitch;  // elements from one cell to the next
  int64_t lanes;         // cells of a piece
  int64_t band_lanes;    // 0 for no band
  bool backward;
};

// A plan with the memory that it points to.
template <typename T>
struct OwnedPlan {
  RoiPlan<T> plan;
  T coverage;  // share of the samples that lie on the map
  AlignedVector<T> weights;
  std::vector<int64_t> integers;
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

// One row of `rois`, checked: the image and where the samples lie.
template <typename T>
struct RoiSamples {
  int64_t image;
  AxisSamples<T> rows;
  AxisSamples<T> columns;

  RoiSamples(const T* roi, int64_t row, const Geometry& geometry)
      : image(checked_image(roi[0], row, geometry)),
        rows(axis_samples<T>(roi[2], roi[4], geometry.pooled.height, geometry.height, geometry, row)),
        columns(axis_samples<T>(roi[1], roi[3], geometry.pooled.width, geometry.width, geometry, row)) {}

 private:
  static int64_t checked_image(T image, int64_t row, const Geometry& geometry) {
    if (!(image >= T(0) && image < static_cast<T>(geometry.images) && image == std::floor(image))) {
      fail("RA206: box ", row, " names image ", image, " of a batch of ", geometry.images);
    }
    return static_cast<int64_t>(image);
  }
};

// Makes plans one after the other, with memory of its own that it uses again.
template <typename T>
class Planner {
 public:
  explicit Planner(const PlanForm& form) : form(form) {}

  void make(const RoiSamples<T>& samples, OwnedPlan<T>& owned) {
    rows.build(samples.rows);
    columns.build(samples.columns);
    owned.plan.image = samples.image;
    const T on_map = static_cast<T>(rows.samples_on_map) * static_cast<T>(columns.samples_on_map);
    owned.coverage = on_map / (total(samples.rows) * total(samples.columns));
    integers = &owned.integers;
    weights = &owned.weights;
    integers->clear();
    weights->clear();
    const Offsets band = add_band(samples.columns.extent);
    const Offsets by_column = add_columns();
    const Offsets by_row = form.backward ? add_transposed_rows() : add_rows();
    const int64_t* i = integers->data();
    const T* w = weights->data();
    RoiPlan<T>& plan = owned.plan;
    plan.pieces = static_cast<int64_t>(starts.size());
    plan.starts = i + band.extra;
    plan.band = {band.rows, i + band.begin, i + band.index, w + band.weight};
    plan.row_cells = i + by_row.extra;
    plan.rows = {by_row.rows, i + by_row.begin, i + by_row.index, w + by_row.weight};
    plan.columns = {by_column.rows, i + by_column.begin, i + by_column.index, w + by_column.weight};
  }

 private:
  struct Offsets {
    int64_t rows, extra, begin, index, weight;
  };

  PlanForm form;
  AxisTaps<T> rows, columns;
  std::vector<int64_t>* integers;
  AlignedVector<T>* weights;
  std::vector<int64_t> cells;    // distinct, ascending
  std::vector<int64_t> ordinal;  // per tap: which of `cells` it reads
  std::vector<int64_t> starts;   // of the pieces, in cells
  std::vector<int64_t> slots;    // per distinct column
  std::vector<int64_t> lowest, highest, filled;

  static T total(const AxisSamples<T>& samples) {
    return static_cast<T>(std::max<int64_t>(samples.grid * samples.pooled, 1));
  }

  int64_t add(const std::vector<int64_t>& values) {
    integers->insert(integers->end(), values.begin(), values.end());
    return static_cast<int64_t>(integers->size() - values.size());
  }

  void number_cells(const AxisTaps<T>& taps) {
    cells = taps.cell;
    std::sort(cells.begin(), cells.end());
    cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
    ordinal.resize(taps.cell.size());
    for (size_t tap = 0; tap < taps.cell.size(); ++tap) {
      ordinal[tap] = std::lower_bound(cells.begin(), cells.end(), taps.cell[tap]) - cells.begin();
    }
  }

  // Covers the columns with pieces of `lanes` cells, none of which reaches beyond the map's edge.
  void cut_pieces(int64_t extent) {
    starts.clear();
    slots.clear();
    for (const int64_t cell : cells) {
      if (starts.empty() || cell >= starts.back() + form.lanes) {
        starts.push_back(std::max<int64_t>(0, std::min(cell, extent - form.lanes)));
      }
      slots.push_back((static_cast<int64_t>(starts.size()) - 1) * form.lanes + cell - starts.back());
    }
  }

  Offsets add_band(int64_t extent) {
    number_cells(columns);
    cut_pieces(extent);
    const int64_t pieces = static_cast<int64_t>(integers->size());
    for (const int64_t start : starts) {
      integers->push_back(start * form.column_pitch);
    }
    Offsets offsets{0, pieces, 0, 0, 0};
    if (form.band_lanes == 0) {
      return offsets;
    }
    const int64_t bins = static_cast<int64_t>(columns.begin.size()) - 1;
    const int64_t lanes = form.band_lanes;
    const int64_t outputs = form.backward ? static_cast<int64_t>(starts.size()) * lanes : bins;
    const int64_t groups = (outputs + lanes - 1) / lanes;
    const auto output_of = [&](int64_t bin, int64_t tap) { return form.backward ? slots[ordinal[tap]] : bin; };
    const auto input_of = [&](int64_t bin, int64_t tap) { return form.backward ? bin : ordinal[tap]; };
    const auto each_tap = [&](const auto& body) {
      for (int64_t bin = 0; bin < bins; ++bin) {
        for (int64_t tap = columns.begin[bin]; tap < columns.begin[bin + 1]; ++tap) {
          body(output_of(bin, tap), input_of(bin, tap), columns.weight[tap]);
        }
      }
    };
    lowest.assign(groups, INT64_MAX);
    highest.assign(groups, -1);
    each_tap([&](int64_t output, int64_t input, T) {
      lowest[output / lanes] = std::min(lowest[output / lanes], input);
      highest[output / lanes] = std::max(highest[output / lanes], input);
    });
    filled.assign(1, 0);
    for (int64_t group = 0; group < groups; ++group) {
      filled.push_back(filled.back() + std::max<int64_t>(highest[group] + 1 - lowest[group], 0));
    }
    offsets.rows = groups;
    offsets.begin = add(filled);
    offsets.index = static_cast<int64_t>(integers->size());
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t input = lowest[group]; input <= highest[group]; ++input) {
        integers->push_back(form.backward ? input : slots[input]);
      }
    }
    weights->assign(filled.back() * lanes, T(0));
    each_tap([&](int64_t output, int64_t input, T weight) {
      const int64_t group = output / lanes;
      (*weights)[(filled[group] + input - lowest[group]) * lanes + output % lanes] += weight;
    });
    return offsets;
  }

  Offsets add_columns() {
    Offsets offsets{static_cast<int64_t>(columns.begin.size()) - 1, 0, 0, 0, 0};
    offsets.begin = add(columns.begin);
    offsets.index = static_cast<int64_t>(integers->size());
    for (const int64_t which : ordinal) {
      integers->push_back(slots[which]);
    }
    offsets.weight = add_weights(columns);
    return offsets;
  }

  Offsets add_rows() {
    Offsets offsets{static_cast<int64_t>(rows.begin.size()) - 1, 0, 0, 0, 0};
    offsets.begin = add(rows.begin);
    offsets.index = static_cast<int64_t>(integers->size());
    for (const int64_t cell : rows.cell) {
      integers->push_back(cell * form.row_pitch);
    }
    offsets.weight = add_weights(rows);
    return offsets;
  }

  int64_t add_weights(const AxisTaps<T>& taps) {
    weights->insert(weights->end(), taps.weight.begin(), taps.weight.end());
    return static_cast<int64_t>(weights->size() - taps.weight.size());
  }

  Offsets add_transposed_rows() {
    number_cells(rows);
    Offsets offsets{static_cast<int64_t>(cells.size()), 0, 0, 0, 0};
    filled.assign(cells.size() + 1, 0);
    for (const int64_t which : ordinal) {
      ++filled[which + 1];
    }
    for (size_t cell = 0; cell < cells.size(); ++cell) {
      filled[cell + 1] += filled[cell];
    }
    offsets.extra = add(cells);
    offsets.begin = add(filled);
    offsets.index = static_cast<int64_t>(integers->size());
    offsets.weight = static_cast<int64_t>(weights->size());
    integers->resize(integers->size() + rows.cell.size());
    weights->resize(weights->size() + rows.cell.size());
    const int64_t bins = static_cast<int64_t>(rows.begin.size()) - 1;
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t tap = rows.begin[bin]; tap < rows.begin[bin + 1]; ++tap) {
        const int64_t place = filled[ordinal[tap]]++;
        (*integers)[offsets.index + place] = bin;
        (*weights)[offsets.weight + place] = rows.weight[tap];
      }
    }
    return offsets;
  }
};

// Plans of all RoIs, in passes that bound their memory. RoIs of bad values are reported before any
// plan is made, in the order of the rows.
template <typename T>
class Passes {
 public:
  Passes(const T* rois, int64_t count, const Geometry& geometry, const PlanForm& form)
      : rois(rois), geometry(geometry), form(form), bounds{0} {
    double bytes = 0;
    for (int64_t row = 0; row < count; ++row) {
      const double more = bytes_of(RoiSamples<T>(rois + row * 5, row, geometry));
      if (bytes > 0 && bytes + more > kBytesPerPass) {
        bounds.push_back(row);
        bytes = 0;
      }
      bytes += more;
    }
    bounds.push_back(count);
  }

  int64_t count() const { return static_cast<int64_t>(bounds.size()) - 1; }
  int64_t first(int64_t pass) const { return bounds[pass]; }
  int64_t size(int64_t pass) const { return bounds[pass + 1] - bounds[pass]; }

  const std::vector<OwnedPlan<T>>& plans(int64_t pass) {
    if (held != pass) {
      held = pass;
      owned.resize(std::max<size_t>(owned.size(), size(pass)));
      torch::stable::parallel_for(0, size(pass), kRoisPerThread, [&](int64_t begin, int64_t end) {
        Planner<T> planner(form);
        for (int64_t k = begin; k < end; ++k) {
          const int64_t row = first(pass) + k;
          planner.make(RoiSamples<T>(rois + row * 5, row, geometry), owned[k]);
        }
      });
    }
    return owned;
  }

 private:
  static constexpr double kBytesPerPass = 6 << 20;
  static constexpr int64_t kRoisPerThread = 32;

  const T* rois;
  const Geometry& geometry;
  PlanForm form;
  std::vector<int64_t> bounds;
  std::vector<OwnedPlan<T>> owned;
  int64_t held = -1;

  // An estimate: the cells that a RoI reads along each axis, and what is kept of each.
  double bytes_of(const RoiSamples<T>& samples) const {
    const double columns = cells_of(samples.columns), rows = cells_of(samples.rows);
    const double bins = static_cast<double>(samples.rows.pooled + samples.columns.pooled);
    const double vectors = form.backward ? columns / form.lanes + static_cast<double>(samples.columns.pooled) : columns;
    return sizeof(OwnedPlan<T>) + vectors * static_cast<double>(form.band_lanes * sizeof(T)) +
        32 * (columns + rows + 3 * bins);
  }

  static double cells_of(const AxisSamples<T>& samples) {
    const double span = std::min(
        std::abs(static_cast<double>(samples.bin)) * static_cast<double>(samples.pooled),
        static_cast<double>(samples.extent));
    const double taps = 2 * static_cast<double>(samples.grid) * static_cast<double>(samples.pooled);
    return std::max(std::min(span + 3, taps), 0.0);
  }
};

}  // namespace roialign
