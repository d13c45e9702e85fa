// The matrix [bins, cells] of a RoI that does not factor into rows and columns: how it is built.
#pragma once

#include <cstdint>
#include <numeric>

#include "memory.h"
#include "roi.h"

namespace roialign {

// Some bins of one RoI: all, unless their matrix would take too much memory.
struct Piece {
  int64_t row;  // of the box
  int64_t first_bin;
  int64_t bins;
};

// A matrix with its memory, which is used again when the next one is made.
template <typename T>
struct OwnedMatrix {
  Piece piece;
  int64_t image;
  double samples_on_map;
  std::vector<int64_t> begin, index;  // of the taps of each bin, and the number of the cell that each reads
  AlignedVector<T> weight;
  std::vector<int64_t> cells;         // row * width + column of those that are read
  std::vector<int64_t> offsets;       // of the same, in elements of a plane
  std::vector<int64_t> cell_begin, bin_index;
  AlignedVector<T> cell_weight;

  MatrixPlan<T> plan() const {
    const int64_t cells_read = static_cast<int64_t>(cells.size());
    return {
        image,
        {piece.bins, begin.data(), index.data(), weight.data()},
        {cells_read, cell_begin.data(), bin_index.data(), cell_weight.data()},
        cells_read,
        offsets.data()};
  }
};

// Where a plane's cells are in memory.
struct Pitches {
  int64_t row, column;
};

// Makes matrices one after the other, sample by sample. What it looks up belongs to the whole map, so
// no cell of the map is out of its bounds; an entry counts only if what it points to points back.
template <typename T>
class MatrixBuilder {
 public:
  MatrixBuilder(const Geometry& geometry, Pitches pitches)
      : width(geometry.width), pitches(pitches), number_of(geometry.height * width), tap_of(geometry.height * width) {}

  void start(OwnedMatrix<T>& next) {
    matrix = &next;
    matrix->begin.assign(1, 0);
    matrix->index.clear();
    matrix->cells.clear();
    sums.clear();
    cells_before = 0;
  }

  // Adds a sample of weight `share` to the bin that is being built.
  void add(const Bilinear<T>& row, const Bilinear<T>& column, double share) {
    const double below = row.fraction, right = column.fraction;
    add_cell(row.low, column.low, share * (1.0 - below) * (1.0 - right));
    if (column.high != column.low) {
      add_cell(row.low, column.high, share * (1.0 - below) * right);
    }
    if (row.high != row.low) {
      add_cell(row.high, column.low, share * below * (1.0 - right));
      if (column.high != column.low) {
        add_cell(row.high, column.high, share * below * right);
      }
    }
  }

  // Ends a bin, whose weights are divided by this; with a divisor of 0 it reads nothing.
  void end_bin(double divisor) {
    const int64_t first = matrix->begin.back();
    if (divisor == 0) {
      sums.resize(first);
      matrix->index.resize(first);
      matrix->cells.resize(cells_before);
    }
    cells_before = matrix->cells.size();
    for (size_t tap = first; tap < sums.size(); ++tap) {
      sums[tap] /= divisor;
    }
    matrix->begin.push_back(static_cast<int64_t>(sums.size()));
  }

  void finish(bool transposed) {
    matrix->weight.assign(sums.begin(), sums.end());
    matrix->offsets.clear();
    for (const int64_t cell : matrix->cells) {
      matrix->offsets.push_back(cell / width * pitches.row + cell % width * pitches.column);
    }
    if (transposed) {
      transpose();
    }
  }

  // After `finish`: makes `tap` tell which of the matrix's taps of this bin read a cell.
  void look_up(const OwnedMatrix<T>& finished, int64_t bin) {
    for (int64_t tap = finished.begin[bin]; tap < finished.begin[bin + 1]; ++tap) {
      tap_of[finished.cells[finished.index[tap]]] = static_cast<int32_t>(tap);
    }
  }
  int64_t tap(int64_t row, int64_t column) const { return tap_of[row * width + column]; }

 private:
  int64_t width;
  Pitches pitches;
  std::vector<int32_t> number_of;  // per cell of the map, in `cells`
  std::vector<int32_t> tap_of;     // per cell of the map, in `index`
  std::vector<double> sums;
  OwnedMatrix<T>* matrix = nullptr;
  size_t cells_before = 0;  // this bin

  void add_cell(int64_t row, int64_t column, double share) {
    const int64_t cell = row * width + column;
    const int64_t taps = static_cast<int64_t>(sums.size());
    auto& cells = matrix->cells;
    int64_t number = number_of[cell];
    if (number >= static_cast<int64_t>(cells.size()) || cells[number] != cell) {
      number = static_cast<int64_t>(cells.size());
      number_of[cell] = static_cast<int32_t>(number);
      cells.push_back(cell);
    }
    const int64_t tap = tap_of[cell];
    if (tap >= matrix->begin.back() && tap < taps && matrix->index[tap] == number) {
      sums[tap] += share;
      return;
    }
    tap_of[cell] = static_cast<int32_t>(taps);
    matrix->index.push_back(number);
    sums.push_back(share);
  }

  // Each cell's bins in ascending order, so that it gets its summands in one order.
  void transpose() {
    const int64_t cells = static_cast<int64_t>(matrix->cells.size());
    auto& begin = matrix->cell_begin;
    begin.assign(cells + 1, 0);
    for (const int64_t number : matrix->index) {
      ++begin[number + 1];
    }
    for (int64_t cell = 0; cell < cells; ++cell) {
      begin[cell + 1] += begin[cell];
    }
    places.assign(begin.begin(), begin.end());
    matrix->bin_index.resize(matrix->index.size());
    matrix->cell_weight.resize(matrix->index.size());
    for (int64_t bin = 0; bin < matrix->piece.bins; ++bin) {
      for (int64_t tap = matrix->begin[bin]; tap < matrix->begin[bin + 1]; ++tap) {
        const int64_t place = places[matrix->index[tap]]++;
        matrix->bin_index[place] = bin;
        matrix->cell_weight[place] = matrix->weight[tap];
      }
    }
  }

  std::vector<int64_t> places;
};

// How many different cells a bin may read: of a bin so high and wide, in cells, with so many samples.
inline double taps_of_bin(double high, double wide, double samples, const Geometry& geometry) {
  const double rows = std::min(high + 3, static_cast<double>(geometry.height));
  const double columns = std::min(wide + 3, static_cast<double>(geometry.width));
  return std::max(1.0, std::min(rows * columns, 4 * samples));
}

constexpr double kTapsPerPiece = 1 << 14;

// All bins of all RoIs in pieces: by image, then from top to bottom, so that neighbours read the same cells.
template <typename Maker>
std::vector<Piece> cut_pieces(const Maker& maker, const Geometry& geometry) {
  std::vector<int64_t> order(maker.count());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return maker.image(a) != maker.image(b) ? maker.image(a) < maker.image(b) : maker.top(a) < maker.top(b);
  });
  std::vector<Piece> pieces;
  const int64_t bins = geometry.pooled.cells();
  for (const int64_t row : order) {
    const double fitting = std::clamp(kTapsPerPiece / maker.taps_per_bin(row), 1.0, static_cast<double>(bins));
    const int64_t step = static_cast<int64_t>(fitting);
    for (int64_t bin = 0; bin < bins; bin += step) {
      pieces.push_back({row, bin, std::min(step, bins - bin)});
    }
  }
  return pieces;
}

}  // namespace roialign
