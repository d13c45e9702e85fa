// The boxes of roi_pool and ps_roi_pool: rounded to whole cells of the map, and cut into bins of whole cells.
#pragma once

#include "roi.h"

namespace roialign {

constexpr double kMaxRoundedCell = 1073741824.0;  // beyond, a box cannot be counted in int32, as torchvision does

// The bins of one RoI along one axis.
template <typename T>
struct AxisBins {
  int64_t start;   // the box's first cell
  int64_t cells;   // of the box, at least one
  int64_t pooled;  // output bins
  int64_t extent;  // of the map, as far as bins read it
  T bin;           // cells of one bin, a fraction

  // The cells of a bin that are on the map: first and past-the-last, which may be equal. Neighbouring bins share a
  // cell where one ends within it. The order of the operations is torchvision's.
  int64_t first(int64_t bin_index) const { return on_map(std::floor(static_cast<T>(bin_index) * bin)); }
  int64_t last(int64_t bin_index) const { return on_map(std::ceil(static_cast<T>(bin_index + 1) * bin)); }

  // Cells of the box that are on a map of so many.
  double share_of(int64_t map_extent) const {
    const int64_t inside = std::min(start + cells, map_extent) - std::max<int64_t>(start, 0);
    return static_cast<double>(std::max<int64_t>(inside, 0)) / static_cast<double>(cells);
  }

 private:
  int64_t on_map(T from_start) const {
    return std::clamp<int64_t>(static_cast<int64_t>(from_start) + start, 0, extent);
  }
};

// How boxes are rounded: whether the cell that a box ends in is its own, and how much of the map bins read.
struct Rounding {
  bool with_end;
  int64_t height, width;
};

template <typename T>
int64_t rounded(T coordinate, double scale, int64_t row) {
  const T cell = std::round(coordinate * static_cast<T>(scale));
  if (!(std::abs(cell) <= static_cast<T>(kMaxRoundedCell))) {
    fail("RA205: box ", row, " has a coordinate that is NaN, infinite or astronomically large");
  }
  return static_cast<int64_t>(cell);
}

template <typename T>
AxisBins<T> axis_bins(
    T low, T high, int64_t pooled, int64_t extent, const AxisCells& cells, bool with_end, int64_t row) {
  const int64_t start = rounded(low, cells.scale, row);
  const int64_t end = rounded(high, cells.scale, row) + (with_end ? 1 : 0);
  const int64_t length = std::max<int64_t>(end - start, 1);
  return {start, length, pooled, extent, static_cast<T>(length) / static_cast<T>(pooled)};
}

// One row of `rois`, checked: the image and the cells of the bins.
template <typename T>
struct RoiBins {
  int64_t image;
  AxisBins<T> rows;
  AxisBins<T> columns;

  RoiBins(const T* roi, int64_t row, const Geometry& geometry, const Rounding& rounding)
      : image(checked_image(roi[0], row, geometry)),
        rows(axis_bins<T>(
            roi[2], roi[4], geometry.pooled.height, rounding.height, geometry.rows, rounding.with_end, row)),
        columns(axis_bins<T>(
            roi[1], roi[3], geometry.pooled.width, rounding.width, geometry.columns, rounding.with_end, row)) {}

  // The share of the box's cells that are on the map.
  T coverage(const Geometry& geometry) const {
    return static_cast<T>(rows.share_of(geometry.height) * columns.share_of(geometry.width));
  }
};

}  // namespace roialign
