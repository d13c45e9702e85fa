// RoIAlign of rotated boxes and its gradients, on the CPU.
//
// A sample's row and column both depend on where it is along both sides of the box, so nothing factors:
// each RoI has one sparse matrix from the cells of the map to its bins.
#include "matrix_operator.h"

namespace roialign {
namespace {

constexpr int64_t kColumns = 6;  // image, centre x, centre y, width, height, angle
constexpr double kPi = 3.14159265358979323846;

struct Angles {
  bool clockwise, radians;
};

// Cosine and sine of an angle, counter-clockwise; quarter turns in degrees are exact.
struct Turn {
  double cos, sin;

  Turn(double angle, const Angles& angles) {
    const double signed_angle = angles.clockwise ? -angle : angle;
    if (angles.radians) {
      cos = std::cos(signed_angle);
      sin = std::sin(signed_angle);
      return;
    }
    const double degrees = std::fmod(signed_angle, 360.0);
    const double quarters = std::nearbyint(degrees / 90.0);
    const double rest = (degrees - 90.0 * quarters) * (kPi / 180.0);
    const double c = std::cos(rest), s = std::sin(rest);
    switch ((static_cast<int>(quarters) + 8) % 4) {
      case 0: cos = c, sin = s; break;
      case 1: cos = -s, sin = c; break;
      case 2: cos = -c, sin = -s; break;
      default: cos = s, sin = -c; break;
    }
  }
};

// Up to so many samples along an axis are all looked at; of more, those that can be on the map.
constexpr int64_t kFewSamples = 4;

// One box, checked. Rows and columns are those of the box, about its centre, in cells of the map.
template <typename T>
struct RotatedSamples {
  int64_t image;
  T centre_y, centre_x, cos, sin;
  AxisSamples<T> rows, columns;
  std::pair<T, T> rows_near_map, columns_near_map;

  RotatedSamples(const T* roi, int64_t row, const Geometry& geometry, const Angles& angles)
      : image(checked_image(roi[0], row, geometry)),
        centre_y(roi[2] * static_cast<T>(geometry.rows.scale) - static_cast<T>(geometry.rows.shift)),
        centre_x(roi[1] * static_cast<T>(geometry.columns.scale) - static_cast<T>(geometry.columns.shift)),
        rows(about_centre(roi[4] * static_cast<T>(geometry.rows.scale), geometry.pooled.height, geometry, row)),
        columns(about_centre(roi[3] * static_cast<T>(geometry.columns.scale), geometry.pooled.width, geometry, row)) {
    if (!std::isfinite(centre_y) || !std::isfinite(centre_x) || !std::isfinite(roi[5])) {
      fail("RA205: box ", row, " has a centre or an angle that is NaN, infinite or astronomically large");
    }
    const Turn turn(roi[5], angles);
    cos = static_cast<T>(turn.cos);
    sin = static_cast<T>(turn.sin);
    bound(geometry);
  }

  T size(const AxisSamples<T>& side) const { return std::abs(side.bin * static_cast<T>(side.pooled)); }

  // The order of these operations is the peers': whether a sample is on the map is decided on the
  // rounded result.
  T y(T along_rows, T along_columns) const { return along_rows * cos - along_columns * sin + centre_y; }
  T x(T along_rows, T along_columns) const { return along_rows * sin + along_columns * cos + centre_x; }

 private:
  static AxisSamples<T> about_centre(T size, int64_t pooled, const Geometry& geometry, int64_t row) {
    const T widened = geometry.widen ? std::max(size, T(1)) : size;
    return samples_along<T>(-widened / T(2), widened, pooled, 0, geometry, row);
  }

  // Where the map lies in the box's own axes, with what rounding may add.
  void bound(const Geometry& geometry) {
    const T height = static_cast<T>(geometry.height), width = static_cast<T>(geometry.width);
    const T largest = std::abs(centre_y) + std::abs(centre_x) + size(rows) + size(columns) + height + width;
    const T margin = T(1) + 32 * std::numeric_limits<T>::epsilon() * largest;
    rows_near_map = columns_near_map = {std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()};
    for (const T y : {T(-1), height}) {
      for (const T x : {T(-1), width}) {
        const T along_rows = (y - centre_y) * cos + (x - centre_x) * sin;
        const T along_columns = (x - centre_x) * cos - (y - centre_y) * sin;
        rows_near_map = {std::min(rows_near_map.first, along_rows), std::max(rows_near_map.second, along_rows)};
        columns_near_map = {
            std::min(columns_near_map.first, along_columns), std::max(columns_near_map.second, along_columns)};
      }
    }
    rows_near_map = {rows_near_map.first - margin, rows_near_map.second + margin};
    columns_near_map = {columns_near_map.first - margin, columns_near_map.second + margin};
  }
};

template <typename T>
std::pair<int64_t, int64_t> run_near(const AxisSamples<T>& side, int64_t bin, const std::pair<T, T>& near_map) {
  if (side.grid <= kFewSamples) {
    return {0, side.grid};
  }
  return side.run_between(bin, near_map.first, near_map.second);
}

template <typename T>
class RotatedMaker {
 public:
  RotatedMaker(const Tensor& rois, const Geometry& geometry, const Angles& angles) : geometry(geometry) {
    const T* values = rois.const_data_ptr<T>();
    boxes.reserve(rois.size(0));
    for (int64_t row = 0; row < rois.size(0); ++row) {
      boxes.emplace_back(values + row * kColumns, row, geometry, angles);
    }
  }

  int64_t count() const { return static_cast<int64_t>(boxes.size()); }
  int64_t image(int64_t row) const { return boxes[row].image; }
  double top(int64_t row) const {
    const RotatedSamples<T>& box = boxes[row];
    return box.centre_y - (box.size(box.rows) * std::abs(box.cos) + box.size(box.columns) * std::abs(box.sin)) / 2;
  }
  double samples(int64_t row) const {
    return grid(row) * static_cast<double>(geometry.pooled.height) * static_cast<double>(geometry.pooled.width);
  }
  double taps_per_bin(int64_t row) const {
    const RotatedSamples<T>& box = boxes[row];
    const double high = std::abs(box.rows.bin), wide = std::abs(box.columns.bin);
    const double cos = std::abs(box.cos), sin = std::abs(box.sin);
    return taps_of_bin(high * cos + wide * sin, high * sin + wide * cos, grid(row), geometry);
  }

  void make(OwnedMatrix<T>& matrix, MatrixBuilder<T>& builder) const {
    const Piece& piece = matrix.piece;
    matrix.image = boxes[piece.row].image;
    matrix.samples_on_map = 0;
    builder.start(matrix);
    for (int64_t bin = piece.first_bin; bin < piece.first_bin + piece.bins; ++bin) {
      walk(piece.row, bin, [&](const Bilinear<T>& row, const Bilinear<T>& column, double, double) {
        builder.add(row, column, 1.0);
        matrix.samples_on_map += 1;
      });
      builder.end_bin(grid(piece.row));
    }
  }

  // Calls visit(row, column, down, across) for the samples of a bin that are on the map; the last two are
  // how far from the box's centre the sample is, as a share of the box's height and width.
  template <typename Visit>
  void walk(int64_t row, int64_t bin, const Visit& visit) const {
    const RotatedSamples<T>& box = boxes[row];
    const int64_t p = bin / geometry.pooled.width, q = bin % geometry.pooled.width;
    const auto [top, bottom] = run_near(box.rows, p, box.rows_near_map);
    const auto [left, right] = run_near(box.columns, q, box.columns_near_map);
    for (int64_t i = top; i < bottom; ++i) {
      const T along_rows = box.rows.position(p, i);
      for (int64_t j = left; j < right; ++j) {
        const T along_columns = box.columns.position(q, j);
        const T y = box.y(along_rows, along_columns), x = box.x(along_rows, along_columns);
        if (is_on_map(y, geometry.height) && is_on_map(x, geometry.width)) {
          visit(bilinear(y, geometry.height), bilinear(x, geometry.width), share(box.rows, p, i),
                share(box.columns, q, j));
        }
      }
    }
  }

  const RotatedSamples<T>& box(int64_t row) const { return boxes[row]; }

  // Samples of a bin.
  double grid(int64_t row) const {
    const double rows = static_cast<double>(boxes[row].rows.grid), columns = static_cast<double>(boxes[row].columns.grid);
    return std::max(rows, 0.0) * std::max(columns, 0.0);
  }

 private:
  const Geometry& geometry;
  std::vector<RotatedSamples<T>> boxes;

  static double share(const AxisSamples<T>& side, int64_t bin, int64_t sample) {
    const double in_bin = (static_cast<double>(sample) + 0.5) / static_cast<double>(side.grid);
    return (static_cast<double>(bin) + in_bin) / static_cast<double>(side.pooled) - 0.5;
  }
};

// How the result changes with the numbers of one box, in cells and radians.
struct RotatedGradient {
  double centre_x = 0, centre_y = 0, width = 0, height = 0, angle = 0;
};

// Adds what the samples of one bin contribute.
template <typename T>
void differentiate_bin(
    const RotatedMaker<T>& maker, int64_t row, int64_t bin, const std::vector<double>& of_taps,
    const MatrixBuilder<T>& builder, RotatedGradient& gradient) {
  const RotatedSamples<T>& box = maker.box(row);
  const double cos = box.cos, sin = box.sin, grid = maker.grid(row);
  const double height = static_cast<double>(box.rows.bin) * static_cast<double>(box.rows.pooled);
  const double width = static_cast<double>(box.columns.bin) * static_cast<double>(box.columns.pooled);
  maker.walk(row, bin, [&](const Bilinear<T>& r, const Bilinear<T>& c, double down, double across) {
    const auto at = [&](int64_t y, int64_t x) { return of_taps[builder.tap(y, x)]; };
    const double top_left = at(r.low, c.low), top_right = at(r.low, c.high);
    const double bottom_left = at(r.high, c.low), bottom_right = at(r.high, c.high);
    const double below = r.fraction, right = c.fraction;
    const double by_y =
        r.free ? ((bottom_left - top_left) * (1 - right) + (bottom_right - top_right) * right) / grid : 0.0;
    const double by_x =
        c.free ? ((top_right - top_left) * (1 - below) + (bottom_right - bottom_left) * below) / grid : 0.0;
    const double by_rows = by_y * cos + by_x * sin, by_columns = by_x * cos - by_y * sin;
    gradient.centre_y += by_y;
    gradient.centre_x += by_x;
    gradient.height += by_rows * down;
    gradient.width += by_columns * across;
    gradient.angle += by_columns * down * height - by_rows * across * width;
  });
}

Geometry rotated_geometry(
    int64_t images, int64_t channels, int64_t height, int64_t width, PooledSize pooled, double spatial_scale,
    int64_t sampling_ratio, bool aligned) {
  const AxisCells cells = cells_of(spatial_scale, aligned);
  return {images, channels, height, width, pooled, cells, cells, sampling_ratio, !aligned};
}

std::tuple<Tensor, Tensor> roi_align_rotated(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned, bool clockwise, bool radians) {
  check_map(input);
  const Geometry geometry = rotated_geometry(
      input.size(0), input.size(1), input.size(2), input.size(3), {pooled_height, pooled_width}, spatial_scale,
      sampling_ratio, aligned);
  check_arguments(input, given_rois, geometry, kColumns);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  dispatch(input.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const RotatedMaker<compute_t<scalar_t>> maker(rois, geometry, {clockwise, radians});
    pool_by_matrix<scalar_t>(input, geometry, maker, output, coverage);
  });
  return {output, coverage};
}

Tensor roi_align_rotated_backward(
    const Tensor& grad, const Tensor& given_rois, int64_t images, int64_t height, int64_t width,
    double spatial_scale, int64_t sampling_ratio, bool aligned, bool clockwise, bool radians) {
  check_grad(grad, given_rois);
  const Geometry geometry = rotated_geometry(
      images, grad.size(1), height, width, {grad.size(2), grad.size(3)}, spatial_scale, sampling_ratio, aligned);
  check_arguments(grad, given_rois, geometry, kColumns);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_input = torch::stable::new_empty(grad, {images, grad.size(1), height, width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const RotatedMaker<compute_t<scalar_t>> maker(rois, geometry, {clockwise, radians});
    scatter_by_matrix<scalar_t>(grad, geometry, maker, grad_input);
  });
  return grad_input;
}

template <typename scalar_t>
void correlate_rotated(
    const Tensor& grad, const Tensor& input, const Tensor& rois, const Geometry& geometry, const Angles& angles,
    Tensor& grad_rois) {
  using T = compute_t<scalar_t>;
  const RotatedMaker<T> maker(rois, geometry, angles);
  std::vector<RotatedGradient> gradients(maker.count());
  correlate_by_matrix<scalar_t>(
      grad, input, geometry, maker,
      [&](const OwnedMatrix<T>& matrix, const std::vector<double>& of_taps, MatrixBuilder<T>& builder) {
        for (int64_t bin = 0; bin < matrix.piece.bins; ++bin) {
          builder.look_up(matrix, bin);
          differentiate_bin(
              maker, matrix.piece.row, matrix.piece.first_bin + bin, of_taps, builder, gradients[matrix.piece.row]);
        }
      });
  const double turned = (angles.clockwise ? -1.0 : 1.0) * (angles.radians ? 1.0 : kPi / 180.0);
  T* to = grad_rois.mutable_data_ptr<T>();
  for (int64_t row = 0; row < maker.count(); ++row, to += kColumns) {
    const RotatedGradient& gradient = gradients[row];
    const RotatedSamples<T>& box = maker.box(row);
    const auto widened = [&](const AxisSamples<T>& side) {
      return geometry.widen && !(side.bin * static_cast<T>(side.pooled) > T(1));
    };
    to[0] = T(0);
    to[1] = static_cast<T>(gradient.centre_x * geometry.columns.scale);
    to[2] = static_cast<T>(gradient.centre_y * geometry.rows.scale);
    to[3] = widened(box.columns) ? T(0) : static_cast<T>(gradient.width * geometry.columns.scale);
    to[4] = widened(box.rows) ? T(0) : static_cast<T>(gradient.height * geometry.rows.scale);
    to[5] = static_cast<T>(gradient.angle * turned);
  }
}

Tensor roi_align_rotated_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, double spatial_scale, int64_t sampling_ratio,
    bool aligned, bool clockwise, bool radians) {
  check_grad(grad, given_rois);
  check_map(input);
  const Geometry geometry = rotated_geometry(
      input.size(0), input.size(1), input.size(2), input.size(3), {grad.size(2), grad.size(3)}, spatial_scale,
      sampling_ratio, aligned);
  check_arguments(input, given_rois, geometry, kColumns);
  check_grad_of(grad, input, geometry);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), kColumns});
  dispatch(input.scalar_type(), [&](auto scalar) {
    correlate_rotated<decltype(scalar)>(grad, input, rois, geometry, {clockwise, radians}, grad_rois);
  });
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align_rotated", TORCH_BOX(&roialign::roi_align_rotated));
  m.impl("roi_align_rotated_backward", TORCH_BOX(&roialign::roi_align_rotated_backward));
  m.impl("roi_align_rotated_backward_boxes", TORCH_BOX(&roialign::roi_align_rotated_backward_boxes));
}
