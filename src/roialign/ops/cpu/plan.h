// From where a RoI's samples lie to its plan: what is read, with which weights, in the kernels' form.
#pragma once

#include <bit>

#include "memory.h"
#include "roi.h"

namespace roialign {

// The form in which the kernels want their plans.
struct PlanForm {
  int64_t row_pitch;     // elements from one row of the map to the next
  int64_t column_pitch;  // elements from one cell to the next
  int64_t lanes;         // cells of a piece
  int64_t vector_lanes;  // of the columns' band; 0 for no bands at all
  bool backward;
};

// A plan with the memory that it points to.
template <typename T>
struct OwnedPlan {
  RoiPlan<T> plan;
  int64_t row;  // of the box
  T coverage;  // share of the samples that lie on the map
  AlignedVector<T> weights;
  std::vector<int64_t> integers;
  std::vector<int64_t> first_row_sample, first_column_sample;  // of the bins, where samples are taken one by one
};

// A band with more weights than this for each tap is mostly zeros, and slower than the taps.
constexpr int64_t kMostPerTap = 3;

// Makes plans one after the other, with memory of its own that it uses again.
template <typename T>
class Planner {
 public:
  explicit Planner(const PlanForm& form) : form(form) {}

  void make(const RoiSamples<T>& samples, OwnedPlan<T>& owned) {
    build(samples);
    owned.first_row_sample = rows.first_sample;
    owned.first_column_sample = columns.first_sample;
    owned.coverage = coverage;
    owned.integers = {integers.begin(), integers.end()};  // of this size, whatever was there before
    owned.weights = {weights.begin(), weights.end()};
    owned.plan = plan_in(samples.image, owned.integers.data(), owned.weights.data());
  }

  // A plan in the planner's own memory, there until the next one is made, and the coverage that goes with it.
  std::pair<RoiPlan<T>, T> make(const RoiSamples<T>& samples) {
    build(samples);
    return {plan_in(samples.image, integers.data(), weights.data()), coverage};
  }

 private:
  struct Offsets {
    int64_t rows = 0, begin = 0, index = 0, weight = 0;
  };

  PlanForm form;
  AxisTaps<T> rows, columns, planes;
  T coverage;
  std::vector<int64_t> integers;
  AlignedVector<T> weights;
  int64_t rows_read, first_row, first_start;  // the last two in `integers`
  Offsets by_row, row_band, by_column, column_band;
  std::vector<int64_t> cells;    // distinct, ascending
  std::vector<int64_t> ordinal;  // per tap: which of `cells` it reads
  std::vector<int64_t> starts;   // of the pieces, in cells
  std::vector<int64_t> slots;    // per distinct column
  std::vector<int64_t> lowest, highest, begins;

  void build(const RoiSamples<T>& samples) {
    rows.build(samples.rows);
    columns.build(samples.columns);
    coverage = rows.on_map * columns.on_map / (rows.total * columns.total);
    if (samples.planes.pooled > 0) {
      planes.build(samples.planes);
      coverage *= planes.on_map / planes.total;
      rows.stack(planes, samples.rows.extent);
    }
    integers.clear();
    weights.clear();
    number_cells(columns);
    cut_pieces(samples.columns.extent);
    first_start = add_scaled(starts, form.column_pitch);
    column_band = form.vector_lanes > 0 ? add_column_band() : Offsets{};
    by_column = add_sparse(columns, [&](int64_t tap) { return slots[ordinal[tap]]; });
    number_cells(rows);
    rows_read = static_cast<int64_t>(cells.size());
    first_row = add_scaled(cells, form.row_pitch);
    row_band = form.vector_lanes > 0 ? add_row_band() : Offsets{};
    by_row = form.backward ? add_transposed_rows()
                           : add_sparse(rows, [&](int64_t tap) { return rows.cell[tap] * form.row_pitch; });
  }

  RoiPlan<T> plan_in(int64_t image, const int64_t* i, const T* w) const {
    return {
        image,
        {by_row.rows, i + by_row.begin, i + by_row.index, w + by_row.weight},
        {row_band.rows, i + row_band.begin, i + row_band.index, w + row_band.weight},
        {by_column.rows, i + by_column.begin, i + by_column.index, w + by_column.weight},
        {column_band.rows, i + column_band.begin, i + column_band.index, w + column_band.weight},
        rows_read,
        i + first_row,
        static_cast<int64_t>(starts.size()),
        i + first_start};
  }

  static int64_t bins_of(const AxisTaps<T>& taps) { return static_cast<int64_t>(taps.begin.size()) - 1; }

  int64_t add(const std::vector<int64_t>& values) { return add_scaled(values, 1); }

  int64_t add_scaled(const std::vector<int64_t>& values, int64_t scale) {
    const size_t offset = integers.size();
    integers.resize(offset + values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      integers[offset + i] = values[i] * scale;
    }
    return static_cast<int64_t>(offset);
  }

  void number_cells(const AxisTaps<T>& taps) {
    cells.clear();
    ordinal.resize(taps.cell.size());
    const bool ascending = taps.cell.empty() || taps.cell.front() <= taps.cell.back();
    bool in_order = true;
    for (int64_t place = 0; place < bins_of(taps); ++place) {
      const int64_t bin = ascending ? place : bins_of(taps) - 1 - place;
      for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
        in_order = in_order && number_next(taps.cell[tap], ordinal[tap]);
      }
    }
    if (!in_order) {
      number_sorted(taps);
    }
  }

  // From bin to bin cells go on or, where neighbouring bins share some, a little back. False for a cell
  // that was left out, as rounding may have it.
  bool number_next(int64_t cell, int64_t& number) {
    if (cells.empty() || cell > cells.back()) {
      cells.push_back(cell);
    }
    number = static_cast<int64_t>(cells.size()) - 1;
    while (number > 0 && cells[number] > cell) {
      --number;
    }
    return cells[number] == cell;
  }

  void number_sorted(const AxisTaps<T>& taps) {
    cells = taps.cell;
    std::sort(cells.begin(), cells.end());
    cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
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

  Offsets add_column_band() {
    const auto slot = [&](int64_t tap) { return slots[ordinal[tap]]; };
    if (form.backward) {
      const int64_t outputs = static_cast<int64_t>(starts.size()) * form.vector_lanes;
      bound_transposed(columns, outputs, form.vector_lanes, slot);
      return add_transposed_band(columns, form.vector_lanes, slot);
    }
    bound(columns, form.vector_lanes);
    return add_band(columns, form.vector_lanes, [&](int64_t which) { return slots[which]; });
  }

  // None where most of it would be zeros.
  Offsets add_row_band() {
    const auto which = [&](int64_t tap) { return ordinal[tap]; };
    if (form.backward) {
      bound_transposed(rows, rows_read, kRowLanes, which);
    } else {
      bound(rows, kRowLanes);
    }
    if (begins.back() * kRowLanes > kMostPerTap * static_cast<int64_t>(rows.cell.size())) {
      return {};
    }
    return form.backward
        ? add_transposed_band(rows, kRowLanes, which)
        : add_band(rows, kRowLanes, [&](int64_t which) { return cells[which] * form.row_pitch; });
  }

  // Which cells each group of `lanes` bins reads, by their numbers, from the lowest to the highest.
  void bound(const AxisTaps<T>& taps, int64_t lanes) {
    const int64_t bins = bins_of(taps), groups = (bins + lanes - 1) / lanes;
    lowest.assign(groups, INT64_MAX);
    highest.assign(groups, -1);
    int64_t bin = 0;
    for (int64_t group = 0; group < groups; ++group) {
      for (; bin < std::min((group + 1) * lanes, bins); ++bin) {
        if (taps.begin[bin] < taps.begin[bin + 1]) {
          lowest[group] = std::min(lowest[group], ordinal[taps.begin[bin]]);
          highest[group] = std::max(highest[group], ordinal[taps.begin[bin + 1] - 1]);
        }
      }
    }
    add_up_groups();
  }

  // Which bins each group of `lanes` outputs reads, where output_of tells the one of each tap.
  template <typename OutputOf>
  void bound_transposed(const AxisTaps<T>& taps, int64_t outputs, int64_t lanes, const OutputOf& output_of) {
    const int64_t groups = (outputs + lanes - 1) / lanes;
    const int shift = std::countr_zero(static_cast<uint64_t>(lanes));
    lowest.assign(groups, INT64_MAX);
    highest.assign(groups, -1);
    for (int64_t bin = 0; bin < bins_of(taps); ++bin) {
      for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
        const int64_t group = output_of(tap) >> shift;
        lowest[group] = std::min(lowest[group], bin);
        highest[group] = std::max(highest[group], bin);
      }
    }
    add_up_groups();
  }

  void add_up_groups() {
    begins.assign(1, 0);
    for (size_t group = 0; group < lowest.size(); ++group) {
      begins.push_back(begins.back() + std::max<int64_t>(highest[group] + 1 - lowest[group], 0));
    }
  }

  // Bins from what value_of tells of each cell.
  template <typename ValueOf>
  Offsets add_band(const AxisTaps<T>& taps, int64_t lanes, const ValueOf& value_of) {
    const Offsets offsets = add_zeros(lanes, value_of);
    T* band = weights.data() + offsets.weight;
    for (int64_t bin = 0, group = 0; bin < bins_of(taps); ++bin) {
      group += bin == (group + 1) * lanes;
      const int64_t first = begins[group] - lowest[group], lane = bin - group * lanes;
      for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
        band[(first + ordinal[tap]) * lanes + lane] = taps.weight[tap];
      }
    }
    return offsets;
  }

  // Outputs from bins.
  template <typename OutputOf>
  Offsets add_transposed_band(const AxisTaps<T>& taps, int64_t lanes, const OutputOf& output_of) {
    const Offsets offsets = add_zeros(lanes, [](int64_t bin) { return bin; });
    const int shift = std::countr_zero(static_cast<uint64_t>(lanes));
    T* band = weights.data() + offsets.weight;
    for (int64_t bin = 0; bin < bins_of(taps); ++bin) {
      for (int64_t tap = taps.begin[bin]; tap < taps.begin[bin + 1]; ++tap) {
        const int64_t output = output_of(tap), group = output >> shift;
        band[(begins[group] + bin - lowest[group]) * lanes + (output & (lanes - 1))] = taps.weight[tap];
      }
    }
    return offsets;
  }

  // A band of the groups that were bound last, with no weights yet.
  template <typename ValueOf>
  Offsets add_zeros(int64_t lanes, const ValueOf& value_of) {
    const int64_t groups = static_cast<int64_t>(lowest.size());
    const Offsets offsets{
        groups, add(begins), static_cast<int64_t>(integers.size()), static_cast<int64_t>(weights.size())};
    integers.resize(integers.size() + begins.back());
    int64_t* inputs = integers.data() + offsets.index;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t input = lowest[group]; input <= highest[group]; ++input) {
        *inputs++ = value_of(input);
      }
    }
    weights.resize(weights.size() + begins.back() * lanes, T(0));
    return offsets;
  }

  template <typename IndexOf>
  Offsets add_sparse(const AxisTaps<T>& taps, const IndexOf& index_of) {
    Offsets offsets{bins_of(taps), add(taps.begin), static_cast<int64_t>(integers.size()), 0};
    integers.resize(integers.size() + taps.cell.size());
    int64_t* indices = integers.data() + offsets.index;
    for (int64_t tap = 0; tap < static_cast<int64_t>(taps.cell.size()); ++tap) {
      indices[tap] = index_of(tap);
    }
    offsets.weight = static_cast<int64_t>(weights.size());
    weights.insert(weights.end(), taps.weight.begin(), taps.weight.end());
    return offsets;
  }

  Offsets add_transposed_rows() {
    begins.assign(cells.size() + 1, 0);
    for (const int64_t which : ordinal) {
      ++begins[which + 1];
    }
    for (size_t cell = 0; cell < cells.size(); ++cell) {
      begins[cell + 1] += begins[cell];
    }
    Offsets offsets{static_cast<int64_t>(cells.size()), add(begins), 0, 0};
    offsets.index = static_cast<int64_t>(integers.size());
    offsets.weight = static_cast<int64_t>(weights.size());
    integers.resize(integers.size() + rows.cell.size());
    weights.resize(weights.size() + rows.cell.size());
    for (int64_t bin = 0; bin < bins_of(rows); ++bin) {
      for (int64_t tap = rows.begin[bin]; tap < rows.begin[bin + 1]; ++tap) {
        const int64_t place = begins[ordinal[tap]]++;
        integers[offsets.index + place] = bin;
        weights[offsets.weight + place] = rows.weight[tap];
      }
    }
    return offsets;
  }
};

}  // namespace roialign
