// The plans of RoIs of whose bins the largest sample counts.
#pragma once

#include "operator.h"

namespace roialign {

// A plan with the memory that it points to.
template <typename T>
struct OwnedSamplePlan {
  typedef typename IndexOf<T>::type Index;
  SamplePlan<T> plan;
  std::vector<TwoCells<T>> rows, columns;
  std::vector<int64_t> first_of_group, starts, band_begin, band_input;
  std::vector<Index> column_of, bin_of, lanes, which;
  AlignedVector<T> weights, band_weights;

  // For the gradient to the features too, with `backward`, or to those that are ONNX's largest corners.
  void make(
      const OwnedPlan<T>& roi, const RoiSamples<T>& samples, const Geometry& geometry, int64_t lanes_of_vector,
      bool backward, bool corners) {
    vector = lanes_of_vector;
    width = geometry.width;
    plan = {};
    plan.pooled = geometry.pooled;
    plan.samples = {roi.first_row_sample.back(), roi.first_column_sample.back()};
    plan.first_row = roi.first_row_sample.data();
    plan.first_column = roi.first_column_sample.data();
    plan.row_grid = samples.rows.grid;
    plan.column_grid = samples.columns.grid;
    read_rows(roi.plan);
    read_columns(roi.plan);
    plan.rows = rows.data();
    plan.columns = columns.data();
    while ((int64_t{1} << plan.row_shift) <= plan.samples.width) {
      ++plan.row_shift;
    }
    if ((most(plan.first_row, plan.pooled.height) + 1) << plan.row_shift <= INT32_MAX) {
      cut_groups();
    }
    plan.widest = most(plan.first_column, plan.pooled.width);
    if (plan.groups == 1 || plan.groups == 2) {
      number_columns();
      if (backward && plan.pooled.width <= vector) {
        make_band(roi.plan, corners);
      }
    }
    plan.column_of = column_of.data();
    plan.bin_of = bin_of.data();
    plan.first_of_group = first_of_group.data();
    plan.starts = starts.data();
    plan.lanes = lanes.data();
    plan.weights = weights.data();
    plan.which = which.data();
  }

  // Rows of the map that a row of bins reads, at most.
  int64_t most_rows() const {
    int64_t rows_read = 0;
    for (int64_t p = 0; p < plan.pooled.height; ++p) {
      if (plan.first_row[p] < plan.first_row[p + 1]) {
        const TwoCells<T>&one = rows[plan.first_row[p]], &other = rows[plan.first_row[p + 1] - 1];
        const int64_t above = std::min(one.number[0], other.number[0]);
        rows_read = std::max(rows_read, std::max(one.number[1], other.number[1]) + 1 - above);
      }
    }
    return rows_read;
  }

 private:
  int64_t vector, width;

  static int64_t most(const int64_t* first, int64_t bins) {
    int64_t samples = 0;
    for (int64_t bin = 0; bin < bins; ++bin) {
      samples = std::max(samples, first[bin + 1] - first[bin]);
    }
    return samples;
  }

  template <typename OffsetOf>
  static void read(const Sparse<T>& taps, const OffsetOf& offset_of, std::vector<TwoCells<T>>& to) {
    to.clear();
    for (int64_t sample = 0; sample < taps.rows; ++sample) {
      const int64_t first = taps.begin[sample], last = taps.begin[sample + 1] - 1;
      to.push_back({{offset_of(taps.index[first]), offset_of(taps.index[last])},
                    {},
                    {taps.weight[first], last > first ? taps.weight[last] : T(0)}});
    }
  }

  void read_rows(const RoiPlan<T>& roi) {
    read(roi.rows, [](int64_t offset) { return offset; }, rows);
    const int64_t *begin = roi.row_offsets, *end = begin + roi.rows_read;
    for (TwoCells<T>& cells : rows) {
      cells.number[0] = std::lower_bound(begin, end, cells.offset[0]) - begin;
      cells.number[1] = cells.number[0] + (cells.offset[1] != cells.offset[0]);
    }
  }

  void read_columns(const RoiPlan<T>& roi) {
    read(roi.columns, [&](int64_t slot) { return roi.starts[slot / vector] + slot % vector; }, columns);
  }

  // Of as many columns as fit into a vector and read cells of two.
  void cut_groups() {
    first_of_group.clear();
    starts.clear();
    int64_t low = 0, high = 0;
    for (int64_t column = 0; column < plan.samples.width; ++column) {
      const TwoCells<T>& cells = columns[column];
      low = std::min(low, cells.offset[0]);
      high = std::max(high, cells.offset[1]);
      if (first_of_group.empty() || column - first_of_group.back() == vector || high - low >= 2 * vector) {
        first_of_group.push_back(column);
        starts.insert(starts.end(), 2, 0);
        low = cells.offset[0];
        high = cells.offset[1];
      }
      const int64_t start = std::min(low, std::max<int64_t>(width - vector, 0));
      starts.end()[-2] = start;
      starts.end()[-1] = high - start < vector ? -1 : std::min(start + vector, width - vector);
    }
    plan.groups = static_cast<int64_t>(first_of_group.size());
    first_of_group.push_back(plan.samples.width);
    lanes.resize(2 * plan.groups * vector);
    weights.resize(2 * plan.groups * vector);
    column_of.assign(plan.groups * vector, -1);
    bin_of.assign(plan.groups * vector, 0);
    for (int64_t group = 0; group < plan.groups; ++group) {
      fill_group(group);
    }
  }

  void fill_group(int64_t group) {
    const int64_t first = first_of_group[group], last = first_of_group[group + 1] - 1;
    const int64_t start = starts[2 * group], second = starts[2 * group + 1];
    for (int64_t column = first; column <= last; ++column) {
      column_of[group * vector + column - first] = static_cast<Index>(column);
    }
    for (int side = 0; side < 2; ++side) {
      for (int64_t lane = 0; lane < vector; ++lane) {
        const TwoCells<T>& cells = columns[std::min(first + lane, last)];
        const int64_t cell = cells.offset[side], place = (side * plan.groups + group) * vector + lane;
        lanes[place] = static_cast<Index>(cell - start < vector ? cell - start : cell - second + vector);
        weights[place] = cells.weight[side];
      }
    }
  }

  void number_columns() {
    const int64_t bins = plan.pooled.width, pitch = (bins + vector - 1) / vector * vector;
    which.assign(plan.widest * pitch, 0);
    for (int64_t q = 0; q < bins; ++q) {
      const int64_t first = plan.first_column[q], end = plan.first_column[q + 1];
      for (int64_t j = 0; j < plan.widest && first < end; ++j) {
        const int64_t column = std::min(first + j, end - 1), group = column >= first_of_group[1];
        which[j * pitch + q] = static_cast<Index>(group * vector + column - first_of_group[group]);
        bin_of[which[j * pitch + q]] = static_cast<Index>(q);
      }
    }
  }

  // From columns, or from their left cells and then their right ones, to slots.
  void make_band(const RoiPlan<T>& roi, bool corners) {
    band_begin.assign(1, 0);
    band_input.clear();
    band_weights.clear();
    const auto add = [&](int64_t piece, int64_t input, int64_t tap, int64_t end) {
      bool added = false;
      for (; tap < end; ++tap) {
        if (roi.columns.index[tap] / vector == piece) {
          if (!added) {
            band_input.push_back(input);
            band_weights.resize(band_weights.size() + vector, T(0));
            added = true;
          }
          band_weights.end()[roi.columns.index[tap] % vector - vector] += roi.columns.weight[tap];
        }
      }
    };
    for (int64_t piece = 0; piece < roi.pieces; ++piece) {
      for (int64_t slot = 0; slot < plan.groups * vector; ++slot) {
        if (column_of[slot] >= 0) {
          const int64_t begin = roi.columns.begin[column_of[slot]], end = roi.columns.begin[column_of[slot] + 1];
          add(piece, slot, begin, corners ? begin + 1 : end);
          if (corners) {
            add(piece, plan.groups * vector + slot, begin + 1, end);
          }
        }
      }
      band_begin.push_back(static_cast<int64_t>(band_input.size()));
    }
    plan.cells = {roi.pieces, band_begin.data(), band_input.data(), band_weights.data()};
  }
};

}  // namespace roialign
