// The inner loops of RoIAlign with maxima, compiled once for each instruction set: a plane's samples are a product
// with two matrices as its means are, and of each bin's samples the largest counts.
#pragma once

#include "products.h"

namespace roialign {
namespace {

// The largest sample of a bin, and its place. None is below 0 where the bin has samples off the map, which are 0 and
// have no place.
template <typename T>
struct Best {
  T value;
  int64_t row, column;
  bool on_map;
};

// NaN counts as larger than all else, as in torch.
template <typename T>
inline bool exceeds(T value, T largest) {
  return value > largest || (value != value && largest == largest);
}

template <typename T>
inline T larger(T value, T largest) {
  return (value > largest) | (value != value) ? value : largest;
}

// The cell, of two along each axis, that a sample reads, and its weight; the second is the first where it is clamped.
template <typename T>
struct Corner {
  int64_t index;
  T weight;
};

template <typename T>
inline Corner<T> corner_of(const Sparse<T>& taps, int64_t sample, int second) {
  const int64_t first = taps.begin[sample];
  const bool clamped = taps.begin[sample + 1] - first < 2;
  const int64_t tap = clamped ? first : first + second;
  return {taps.index[tap], clamped && second ? T(0) : taps.weight[tap]};
}

template <int L, typename T>
inline int64_t column_offset(const RoiPlan<T>& plan, int64_t slot) {
  return plan.starts[slot / L] + slot % L;
}

// Rows [first, first + rows) of samples, [rows, columns of samples].
template <int L, typename scalar_t, typename T>
inline void sample_rows(
    const RoiPlan<T>& plan, const scalar_t* plane, int64_t lanes, int64_t first, int64_t rows, int64_t columns,
    T* combined, T* samples) {
  const int64_t pitch = plan.pieces * L;
  if (first == 0 && rows == plan.rows.rows && plan.row_band.groups > 0) {
    for (int64_t row = 0; row < rows; row += kRowLanes) {
      combine_dense<L>(plan, row / kRowLanes, plane, lanes, combined + row * pitch);
    }
    if (multiply<L>(plan.column_band, combined, pitch, rows, samples, columns)) {
      return;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    combine_sparse<L>(plan, first + row, plane, lanes, combined + row * pitch);
  }
  if (!multiply<L>(plan.column_band, combined, pitch, rows, samples, columns)) {
    for (int64_t row = 0; row < rows; ++row) {
      multiply_sparse(plan.columns, combined + row * pitch, samples + row * columns);
    }
  }
}

// The largest products of a cell and its weight, in place of samples.
template <int L, typename scalar_t, typename T>
inline void corner_rows(
    const RoiPlan<T>& plan, const scalar_t* plane, int64_t first, int64_t rows, int64_t columns, T* samples) {
  for (int64_t column = 0; column < columns; ++column) {
    const Corner<T> left = corner_of(plan.columns, column, 0), right = corner_of(plan.columns, column, 1);
    const scalar_t* left_cells = plane + column_offset<L>(plan, left.index);
    const scalar_t* right_cells = plane + column_offset<L>(plan, right.index);
    for (int64_t row = 0; row < rows; ++row) {
      const Corner<T> top = corner_of(plan.rows, first + row, 0), bottom = corner_of(plan.rows, first + row, 1);
      const T upper = larger(
          T(top.weight * right.weight * widen(right_cells[top.index])),
          T(top.weight * left.weight * widen(left_cells[top.index])));
      const T lower = larger(
          T(bottom.weight * right.weight * widen(right_cells[bottom.index])),
          T(bottom.weight * left.weight * widen(left_cells[bottom.index])));
      samples[row * columns + column] = larger(lower, upper);
    }
  }
}

// The maxima of one row of bins, from the rows [row_begin, row_end) of `samples`.
template <typename scalar_t, typename T>
inline void write_maxima(
    const SampleGrid& grid, const T* samples, int64_t row_begin, int64_t row_end, T* largest, scalar_t* output) {
  const int64_t columns = grid.samples.width;
  const T* down = samples + row_begin * columns;  // the largest of each column of samples
  for (int64_t row = row_begin + 1; row < row_end; ++row) {
    const T* values = samples + row * columns;
    for (int64_t column = 0; column < columns; ++column) {
      largest[column] = larger(values[column], down[column]);
    }
    down = largest;
  }
  const int64_t each = grid.column_grid;
  if (columns == grid.pooled.width * each && each > 0 && row_end - row_begin == grid.row_grid) {  // all on the map
    for (int64_t q = 0; q < grid.pooled.width; ++q) {
      T value = down[q * each];
      for (int64_t i = 1; i < each; ++i) {
        value = larger(down[q * each + i], value);
      }
      narrow(value, output + q);
    }
    return;
  }
  for (int64_t q = 0; q < grid.pooled.width; ++q) {
    const int64_t begin = grid.first_column[q], end = grid.first_column[q + 1];
    const bool none = row_begin == row_end || begin == end;
    T value = none ? T(0) : down[begin];
    for (int64_t column = begin + 1; column < end && !none; ++column) {
      value = larger(down[column], value);
    }
    const bool off_map = row_end - row_begin < grid.row_grid || end - begin < grid.column_grid;
    narrow(off_map && value < 0 ? T(0) : value, output + q);
  }
}

template <typename T>
inline Best<T> best_of(
    const SampleGrid& grid, const T* samples, int64_t row_begin, int64_t row_end, int64_t q) {
  const int64_t columns = grid.samples.width, begin = grid.first_column[q], end = grid.first_column[q + 1];
  Best<T> best{T(0), 0, 0, false};
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t column = begin; column < end; ++column) {
      const T value = samples[row * columns + column];
      if (!best.on_map || exceeds(value, best.value)) {
        best = {value, row, column, true};
      }
    }
  }
  const bool off_map = row_end - row_begin < grid.row_grid || end - begin < grid.column_grid;
  best.on_map = best.on_map && !(off_map && best.value < 0);
  return best;
}

// The four cells that a sample reads, and their weights along each axis.
template <typename T>
struct Reads {
  int64_t cell[4];
  Corner<T> y[2], x[2];
};

template <int L, typename T>
inline Reads<T> reads_of(const RoiPlan<T>& plan, int64_t row, int64_t column) {
  Reads<T> reads{
      {},
      {corner_of(plan.rows, row, 0), corner_of(plan.rows, row, 1)},
      {corner_of(plan.columns, column, 0), corner_of(plan.columns, column, 1)}};
  for (int corner = 0; corner < 4; ++corner) {
    reads.cell[corner] = reads.y[corner / 2].index + column_offset<L>(plan, reads.x[corner % 2].index);
  }
  return reads;
}

template <typename scalar_t, typename T>
inline int largest_corner(const Reads<T>& reads, const scalar_t* map) {
  int largest = 0;
  T largest_product = reads.y[0].weight * reads.x[0].weight * widen(map[reads.cell[0]]);
  for (int corner = 1; corner < 4; ++corner) {
    const T product = reads.y[corner / 2].weight * reads.x[corner % 2].weight * widen(map[reads.cell[corner]]);
    if (exceeds(product, largest_product)) {
      largest = corner;
      largest_product = product;
    }
  }
  return largest;
}

// Adds what one bin's upstream gradient gives to the cells that its largest sample reads, or to that sample's place.
template <int L, typename scalar_t, typename T>
inline void add_gradient(
    const RoiPlan<T>& plan, const MaxSampleCall<scalar_t>& call, const scalar_t* map, T* plane, const Best<T>& best,
    int64_t row, T upstream) {
  const Reads<T> reads = reads_of<L>(plan, row, best.column);
  const int only = call.corners ? largest_corner(reads, map) : -1;
  for (int corner = 0; corner < 4; ++corner) {
    if (call.corners && corner != only) {
      continue;
    }
    const T y = reads.y[corner / 2].weight, x = reads.x[corner % 2].weight;
    if (plane != nullptr && (y != 0 || corner < 2) && (x != 0 || corner % 2 == 0)) {
      plane[reads.cell[corner]] += y * x * upstream;
    }
    if (call.of_rows != nullptr) {
      const T by_cell = upstream * widen(map[reads.cell[corner]]);
      call.of_rows[row] += (corner / 2 ? by_cell : -by_cell) * x;
      call.of_columns[best.column] += (corner % 2 ? by_cell : -by_cell) * y;
    }
  }
}

template <int L, typename scalar_t, typename T>
void max_samples(const RoiPlan<T>& plan, const MaxSampleCall<scalar_t>& call) {
  const SampleGrid& grid = call.grid;
  const int64_t columns = grid.samples.width;
  T* combined = static_cast<T*>(call.scratch);
  T* samples = combined + (call.rows_at_once + kRowLanes) * plan.pieces * L;
  T* largest = samples + call.rows_at_once * columns;
  const bool whole = call.rows_at_once >= grid.samples.height;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    const scalar_t* map = call.map + channel * call.channel_stride;
    T* plane = call.planes == nullptr ? nullptr : call.planes + channel * call.plane_size;
    if (channel + kPlanesAhead < call.channels) {
      prefetch<L>(plan, map + kPlanesAhead * call.channel_stride, call.lanes);
    }
    for (int64_t p = 0; p < grid.pooled.height; ++p) {
      const int64_t first = whole ? 0 : grid.first_row[p];
      const int64_t rows = (whole ? grid.samples.height : grid.first_row[p + 1]) - first;
      if ((p == 0 || !whole) && rows > 0 && columns > 0) {
        call.corners ? corner_rows<L>(plan, map, first, rows, columns, samples)
                     : sample_rows<L>(plan, map, call.lanes, first, rows, columns, combined, samples);
      }
      const int64_t begin = grid.first_row[p] - first, end = grid.first_row[p + 1] - first;
      if (call.output != nullptr) {
        write_maxima(
            grid, samples, begin, end, largest,
            call.output + channel * grid.pooled.cells() + p * grid.pooled.width);
        continue;
      }
      const scalar_t* grad = call.grad + channel * call.grad_channel_stride + p * call.grad_row_stride;
      for (int64_t q = 0; q < grid.pooled.width; ++q) {
        const Best<T> best = best_of(grid, samples, begin, end, q);
        if (best.on_map) {
          add_gradient<L>(
              plan, call, map, plane, best, first + best.row, T(widen(grad[q * call.grad_column_stride])));
        }
      }
    }
  }
}

}  // namespace
}  // namespace roialign
