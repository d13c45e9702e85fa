// One box as the operators read it: checked, and where its samples lie.
#pragma once

#include <sstream>
#include <stdexcept>

#include "sampling.h"
#include "types.h"

namespace roialign {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// How coordinates of boxes become cells of the map along one axis: cell = coordinate * scale - shift.
struct AxisCells {
  double scale;
  double shift;
};

// The third axis, of volumes: their planes lie one below the other, as rows of one map. A map is one plane.
struct Planes {
  int64_t extent = 1;
  int64_t pooled = 1;
  AxisCells cells = {0.0, 0.0};
};

// Some bins of all: where they begin. None of `whole` where they are all.
struct Strip {
  int64_t row = 0, column = 0;
  PooledSize whole = {0, 0};
};

struct Geometry {
  int64_t images, channels, height, width;  // of a volume, the height is that of all planes together
  PooledSize pooled;
  AxisCells rows, columns;
  int64_t sampling_ratio;
  bool widen;  // boxes to at least one cell
  Take take = Take::mean;
  Planes planes = {};
  Strip strip = {};

  PooledSize all_bins() const { return strip.whole.height > 0 ? strip.whole : pooled; }
  bool is_volume() const { return planes.cells.scale != 0.0; }
  int64_t axes() const { return is_volume() ? 3 : 2; }
  int64_t box_columns() const { return 1 + 2 * axes(); }  // image index, x1, y1(, z1), x2, y2(, z2)
  int64_t plane_height() const { return height / planes.extent; }
};

// The samples of a box that begins at `start` and is `size` long, both in cells.
template <typename T>
AxisSamples<T> samples_along(
    T start, T size, int64_t pooled, int64_t extent, const Geometry& geometry, int64_t row) {
  const bool integral = geometry.take == Take::integral;
  const bool finite = std::isfinite(start) && std::isfinite(size);  // a widened box hides minus infinity
  if (geometry.widen || integral) {
    size = std::max(size, T(integral ? 0 : 1));
  }
  const T bin = size / static_cast<T>(pooled);
  const bool adaptive = geometry.sampling_ratio <= 0 && !integral;
  if (!finite || (adaptive && std::abs(std::ceil(bin)) > static_cast<T>(kMaxAdaptiveGrid))) {
    fail("RA205: box ", row, " has a coordinate that is NaN, infinite or astronomically large");
  }
  const int64_t grid =
      adaptive ? static_cast<int64_t>(std::ceil(bin)) : geometry.sampling_ratio;
  return {start, bin, grid, pooled, extent, geometry.take};
}

template <typename T>
AxisSamples<T> axis_samples(
    T low, T high, int64_t pooled, int64_t extent, const AxisCells& cells, const Geometry& geometry, int64_t row) {
  const T scale = static_cast<T>(cells.scale);
  const T shift = static_cast<T>(cells.shift);
  const T start = low * scale - shift;
  return samples_along<T>(start, (high * scale - shift) - start, pooled, extent, geometry, row);
}

// Those of some bins only.
template <typename T>
AxisSamples<T> samples_of_bins(AxisSamples<T> samples, int64_t first, int64_t bins) {
  samples.first = first;
  samples.whole = samples.pooled;
  samples.pooled = bins;
  return samples;
}

// The image that a box names, checked.
template <typename T>
int64_t checked_image(T image, int64_t row, const Geometry& geometry) {
  if (!(image >= T(0) && image < static_cast<T>(geometry.images) && image == std::floor(image))) {
    fail("RA206: box ", row, " names image ", image, " of a batch of ", geometry.images);
  }
  return static_cast<int64_t>(image);
}

// One row of `rois`, checked: the image and where the samples lie.
template <typename T>
struct RoiSamples {
  int64_t image;
  AxisSamples<T> rows;
  AxisSamples<T> columns;
  AxisSamples<T> planes;  // of a volume; else without bins

  RoiSamples(const T* roi, int64_t row, const Geometry& geometry)
      : image(checked_image(roi[0], row, geometry)),
        rows(samples_of_bins(
            axis_samples<T>(
                roi[2], roi[2 + geometry.axes()], geometry.all_bins().height / geometry.planes.pooled,
                geometry.plane_height(), geometry.rows, geometry, row),
            geometry.strip.row, geometry.pooled.height / geometry.planes.pooled)),
        columns(samples_of_bins(
            axis_samples<T>(
                roi[1], roi[1 + geometry.axes()], geometry.all_bins().width, geometry.width, geometry.columns,
                geometry, row),
            geometry.strip.column, geometry.pooled.width)),
        planes(
            geometry.is_volume() ? axis_samples<T>(
                                       roi[3], roi[6], geometry.planes.pooled, geometry.planes.extent,
                                       geometry.planes.cells, geometry, row)
                                 : AxisSamples<T>{}) {}
};

}  // namespace roialign
