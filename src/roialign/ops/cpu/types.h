// Plain values that the operators hand to the kernels: no code, so that files for different
// instruction sets can share them.
#pragma once

#include <stdint.h>

namespace roialign {

// torch's half types, as bits.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Half types are read and written as they are and computed in float32.
template <typename scalar_t>
struct ComputeType {
  typedef float type;
};
template <>
struct ComputeType<double> {
  typedef double type;
};
template <typename scalar_t>
using compute_t = typename ComputeType<scalar_t>::type;

// A sparse matrix by rows: row i has the entries begin[i] to begin[i + 1] - 1.
template <typename T>
struct Sparse {
  int64_t rows;
  const int64_t* begin;
  const int64_t* index;
  const T* weight;
};

// The same matrix without gaps: outputs are taken in groups of `lanes`, and each input that a group
// reads has one weight for every output of the group, zeros among them.
template <typename T>
struct Band {
  int64_t groups;
  const int64_t* begin;   // inputs of group g: begin[g] to begin[g + 1] - 1
  const int64_t* input;
  const T* weight;        // [inputs, lanes]
};

// Bins, or rows of the map, that are summed up together along the rows' axis.
constexpr int kRowLanes = 4;

// What one RoI reads of a map and with which weights, ready for the inner loops. Columns are read in
// pieces of one vector (of one cell where channels are the vectors); slot s * lanes + l is cell
// starts[s] + l. Rows are offsets in elements.
template <typename T>
struct RoiPlan {
  int64_t image;
  Sparse<T> rows;        // forward: bins from rows of the map; backward: rows of the map from bins
  Band<T> row_band;      // the same, in groups of kRowLanes; no groups where most weights would be zeros
  Sparse<T> columns;     // bins from slots
  Band<T> column_band;   // forward: bins from slots; backward: slots from bins; in groups of one vector
  int64_t rows_read;
  const int64_t* row_offsets;  // the rows of the map that are read, downwards
  int64_t pieces;
  const int64_t* starts;
};

// The matrix [bins, cells] of some bins of one RoI, for what does not factor into rows and columns.
template <typename T>
struct MatrixPlan {
  int64_t image;
  Sparse<T> bins;          // bins from the cells that are read, by their numbers
  Sparse<T> cells;         // the same, transposed; made for the backward pass only
  int64_t cells_read;
  const int64_t* offsets;  // of the cells that are read, in elements of a plane
};

// Cells of which values of many channels are worked on at once.
constexpr int64_t kCellsAtOnce = 512;

struct PooledSize {
  int64_t height;
  int64_t width;
  int64_t cells() const { return height * width; }
};

}  // namespace roialign
