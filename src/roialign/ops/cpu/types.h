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

// What roi_pool reads of a map for one RoI. Only bins that hold cells of the map are in it: rows of bins [top, bottom) and
// columns of bins [left, right). Each row of bins has as many rows as the highest one, the last of its own again, so
// that the inner loops are all of one length.
struct MaxPlan {
  int64_t image;
  int64_t top, bottom, left, right;
  int64_t rows_per_bin;
  const int64_t* rows;      // [bottom - top, rows_per_bin], rows of the map
  int64_t start, columns;   // the columns of the map that are read
  int64_t widest;           // columns of the widest bin
  const int64_t* begin;     // of each column of bins: its columns [begin, end), from `start`
  const int64_t* end;
};

// Cells that are read together along each axis, where channels are planes of their own.
constexpr int kWindow = 4;

// Which cells a block of RoIs reads along one axis, with i = k * bins + b for bin b of RoI k, and in two forms. The
// taps begin[i] to begin[i + 1] - 1; or windows[i] times kWindow cells from start[i] on, with the weights from
// first_weight[i] on, zeros among them. No windows where cells are too far from one another, or the map is too small.
template <typename T>
struct BlockTaps {
  int64_t bins;
  const int64_t* begin;
  const int64_t* cell;
  const T* weight;
  const int64_t* start;
  const int64_t* windows;
  const int64_t* first_weight;
  const T* window_weight;
};

// Some RoIs of a position-sensitive operator.
template <typename T>
struct TapBlock {
  int64_t rois;
  const int64_t* row;    // in `rois`, of each
  const int64_t* image;
  const uint8_t* small;  // whether each bin has one window along each axis
  BlockTaps<T> rows;
  BlockTaps<T> columns;
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

// Numbers of lanes, and what else goes with a vector of values: integers of their size.
template <typename T>
struct IndexOf {
  typedef int32_t type;
};
template <>
struct IndexOf<double> {
  typedef int64_t type;
};

// The two cells along one axis that a sample reads, and their weights. Where it is clamped to the border the second
// is the first, and weighs nothing.
template <typename T>
struct TwoCells {
  int64_t offset[2];  // in elements of a plane
  int64_t number[2];  // of a row, among those that the RoI reads
  T weight[2];
};

// One RoI of whose bins the largest sample counts: which samples are on the map, and what they read. Columns of samples
// come in groups of no more than a vector, whose cells lie in two vectors. There are no groups where there are no
// samples, or too many to be numbered.
template <typename T>
struct SamplePlan {
  PooledSize pooled;
  PooledSize samples;             // on the map, of all bins
  const int64_t* first_row;       // rows of samples of a row of bins: first_row[p] to first_row[p + 1] - 1
  const int64_t* first_column;
  int64_t row_grid, column_grid;  // samples of a bin along each axis, those off the map included
  const TwoCells<T>* rows;        // of each row of samples
  const TwoCells<T>* columns;
  int64_t row_shift;              // the place of a sample in its row of bins: row << row_shift | column
  int64_t groups;
  const int64_t* first_of_group;  // columns of samples
  const typename IndexOf<T>::type* column_of;  // [groups, L]; -1 for lanes that are not in use
  const int64_t* starts;          // [groups, 2] of the vectors of cells; the second is -1 where one is enough
  const typename IndexOf<T>::type* lanes;  // [2, groups, L] of the two cells of each column
  const T* weights;                        // likewise
  int64_t widest;                          // columns of samples of the widest bin
  const typename IndexOf<T>::type* which;  // [widest, bins, up to whole vectors]: the lane, in no more than two groups,
                                           // of each column of a bin, of the last one again where it has fewer
  const typename IndexOf<T>::type* bin_of;     // [groups, L] of each column
  Band<T> cells;  // backward: slots of the RoI's pieces from columns, or from their left and then their right cells
};

}  // namespace roialign
