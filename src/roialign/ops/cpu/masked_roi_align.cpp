// RoIAlign under instance masks and its gradients, on the CPU.
//
// Each sample weighs what the mask is there: a bin is sum(w f) / sum(w), and 0 where sum(w) is 0. The
// weights do not factor into rows and columns, so each RoI has one sparse matrix from cells to bins.
// sum(w) does factor, so samples off the map, which count with f = 0, need not be looked at one by one.
#include <array>

#include "matrix_operator.h"

namespace roialign {
namespace {

// In box masks every sample is on the mask and is looked at, so there may not be too many.
constexpr int64_t kMaxMaskedGrid = 65536;

// Masks [K, h, w], bool or of the type that is computed in, of any strides.
template <typename T>
struct Masks {
  const void* values;
  bool is_bool;
  int64_t height, width;
  int64_t mask_stride, row_stride, column_stride;

  explicit Masks(const Tensor& masks)
      : values(masks.const_data_ptr()), is_bool(masks.scalar_type() == ScalarType::Bool), height(masks.size(1)),
        width(masks.size(2)), mask_stride(masks.stride(0)), row_stride(masks.stride(1)),
        column_stride(masks.stride(2)) {}

  double at(int64_t mask, int64_t row, int64_t column) const {
    const int64_t place = mask * mask_stride + row * row_stride + column * column_stride;
    return is_bool ? (static_cast<const uint8_t*>(values)[place] ? 1.0 : 0.0)
                   : static_cast<double>(static_cast<const T*>(values)[place]);
  }

  // The four pixels that a sample reads: top left and right, bottom left and right.
  std::array<double, 4> around(int64_t mask, const Bilinear<T>& row, const Bilinear<T>& column) const {
    return {at(mask, row.low, column.low), at(mask, row.low, column.high), at(mask, row.high, column.low),
            at(mask, row.high, column.high)};
  }
};

// Four values about a point, and how their mean changes with it.
struct Surface {
  double value, by_row, by_column;

  template <typename T>
  Surface(const std::array<double, 4>& around, const Bilinear<T>& row, const Bilinear<T>& column) {
    const double below = row.fraction, right = column.fraction;
    const double top = around[0] + (around[1] - around[0]) * right;
    const double bottom = around[2] + (around[3] - around[2]) * right;
    value = top + (bottom - top) * below;
    by_row = row.free ? bottom - top : 0.0;
    by_column =
        column.free ? (around[1] - around[0]) * (1.0 - below) + (around[3] - around[2]) * below : 0.0;
  }
};

// One sample along one axis.
template <typename T>
struct AxisSample {
  Bilinear<T> cell;   // of the map, if it is on it
  Bilinear<T> pixel;  // of the mask
  bool on_map;
  double share;       // how far along the box it is
};

// The samples of one RoI along one axis that are on the mask.
template <typename T>
struct MaskedAxis {
  AxisSamples<T> on_map, on_mask;
  AxisTaps<T> mean;                   // over the mask, of all samples of each bin
  std::vector<AxisSample<T>> walked;
  std::vector<int64_t> begin;         // of each bin, in `walked`
  std::vector<int64_t> count_on_map;  // of each bin

  // `with_off_map`: also those that are on the mask only.
  void build(const AxisSamples<T>& map, const AxisSamples<T>& mask, bool with_off_map) {
    on_map = map;
    on_mask = mask;
    mean.build(on_mask);
    walked.clear();
    count_on_map.clear();
    begin.assign(1, 0);
    for (int64_t bin = 0; bin < map.pooled; ++bin) {
      const auto [first, last] = map.run_on_map(bin);
      const auto [first_on_mask, last_on_mask] = mask.run_on_map(bin);
      count_on_map.push_back(std::max<int64_t>(last - first, 0));
      const int64_t from = with_off_map ? first_on_mask : std::max(first, first_on_mask);
      const int64_t to = with_off_map ? last_on_mask : std::min(last, last_on_mask);
      for (int64_t i = from; i < to; ++i) {
        const bool reads = i >= first && i < last;
        const double in_bin = (static_cast<double>(i) + 0.5) / static_cast<double>(map.grid);
        walked.push_back(
            {reads ? bilinear(map.position(bin, i), map.extent) : Bilinear<T>{0, 0, T(0), false},
             bilinear(mask.position(bin, i), mask.extent), reads,
             (static_cast<double>(bin) + in_bin) / static_cast<double>(map.pooled)});
      }
      begin.push_back(static_cast<int64_t>(walked.size()));
    }
  }
};

// How the result changes with where a box begins and with its size, along one axis.
struct SideGradient {
  double start = 0, size = 0;

  void add(double by_position, double share) {
    start += by_position;
    size += by_position * share;
  }
};

struct MaskedGradient {
  SideGradient rows, columns;              // in cells of the map
  SideGradient mask_rows, mask_columns;    // in pixels of the mask
};

template <typename T>
class MaskedMaker {
 public:
  MaskedMaker(
      const Tensor& rois, const Tensor& masks, const Geometry& geometry, bool masks_in_image, bool of_weights)
      : masks(masks), geometry(geometry), masks_in_image(masks_in_image), of_weights(of_weights),
        values(rois.const_data_ptr<T>()) {
    boxes.reserve(rois.size(0));
    for (int64_t row = 0; row < rois.size(0); ++row) {
      boxes.emplace_back(values + row * 5, row, geometry);
      const int64_t rows = std::abs(boxes[row].rows.grid), columns = std::abs(boxes[row].columns.grid);
      if (std::max(rows, columns) > kMaxMaskedGrid) {
        fail("RA205: box ", row, " has a coordinate that is NaN, infinite or astronomically large");
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(boxes.size()); }
  int64_t image(int64_t row) const { return boxes[row].image; }
  double top(int64_t row) const { return std::min(values[row * 5 + 2], values[row * 5 + 4]); }
  double samples(int64_t row) const {
    return grid(row) * static_cast<double>(geometry.pooled.height) * static_cast<double>(geometry.pooled.width);
  }
  double taps_per_bin(int64_t row) const {
    return taps_of_bin(std::abs(boxes[row].rows.bin), std::abs(boxes[row].columns.bin), grid(row), geometry);
  }
  const RoiSamples<T>& box(int64_t row) const { return boxes[row]; }

  void build_axes(int64_t row, MaskedAxis<T>& rows, MaskedAxis<T>& columns) const {
    const bool with_off_map = of_weights && masks_in_image;
    const RoiSamples<T>& box = boxes[row];
    rows.build(box.rows, on_mask(box.rows, values[row * 5 + 2], masks.height, geometry.rows), with_off_map);
    columns.build(box.columns, on_mask(box.columns, values[row * 5 + 1], masks.width, geometry.columns), with_off_map);
  }

  void make(OwnedMatrix<T>& matrix, MatrixBuilder<T>& builder) const {
    const Piece& piece = matrix.piece;
    MaskedAxis<T> rows, columns;
    build_axes(piece.row, rows, columns);
    matrix.image = boxes[piece.row].image;
    matrix.samples_on_map = 0;
    builder.start(matrix);
    for (int64_t bin = piece.first_bin; bin < piece.first_bin + piece.bins; ++bin) {
      const int64_t p = bin / geometry.pooled.width, q = bin % geometry.pooled.width;
      const double on_map = static_cast<double>(rows.count_on_map[p]) * static_cast<double>(columns.count_on_map[q]);
      matrix.samples_on_map += on_map;
      const double divisor = total(piece.row, bin, rows, columns) * grid(piece.row);
      walk(bin, rows, columns, [&](const AxisSample<T>& r, const AxisSample<T>& c) {
        if (divisor != 0 && r.on_map && c.on_map) {
          const double weight = mask_at(piece.row, r, c).value;
          if (weight != 0 || of_weights) {  // a sample of no weight reads nothing
            builder.add(r.cell, c.cell, weight);
          }
        }
      });
      builder.end_bin(divisor);
    }
  }

  template <typename Visit>
  void walk(int64_t bin, const MaskedAxis<T>& rows, const MaskedAxis<T>& columns, const Visit& visit) const {
    const int64_t p = bin / geometry.pooled.width, q = bin % geometry.pooled.width;
    for (int64_t i = rows.begin[p]; i < rows.begin[p + 1]; ++i) {
      for (int64_t j = columns.begin[q]; j < columns.begin[q + 1]; ++j) {
        visit(rows.walked[i], columns.walked[j]);
      }
    }
  }

  // The mean weight of a bin's samples.
  double total(int64_t row, int64_t bin, const MaskedAxis<T>& rows, const MaskedAxis<T>& columns) const {
    double sum = 0;
    each_pixel(bin, rows, columns, [&](int64_t y, int64_t x, double share) { sum += share * masks.at(row, y, x); });
    return sum;
  }

  // Calls visit(row, column, share) for what a bin's mean reads of a mask.
  template <typename Visit>
  void each_pixel(int64_t bin, const MaskedAxis<T>& rows, const MaskedAxis<T>& columns, const Visit& visit) const {
    const int64_t p = bin / geometry.pooled.width, q = bin % geometry.pooled.width;
    for (int64_t i = rows.mean.begin[p]; i < rows.mean.begin[p + 1]; ++i) {
      for (int64_t j = columns.mean.begin[q]; j < columns.mean.begin[q + 1]; ++j) {
        const double share = static_cast<double>(rows.mean.weight[i]) * static_cast<double>(columns.mean.weight[j]);
        visit(rows.mean.cell[i], columns.mean.cell[j], share);
      }
    }
  }

  Surface mask_at(int64_t row, const AxisSample<T>& r, const AxisSample<T>& c) const {
    return Surface(masks.around(row, r.pixel, c.pixel), r.pixel, c.pixel);
  }

  // Samples of a bin.
  double grid(int64_t row) const {
    const double rows = static_cast<double>(boxes[row].rows.grid);
    const double columns = static_cast<double>(boxes[row].columns.grid);
    return std::max(rows, 0.0) * std::max(columns, 0.0);
  }

 private:
  const Masks<T> masks;
  const Geometry& geometry;
  bool masks_in_image, of_weights;
  const T* values;
  std::vector<RoiSamples<T>> boxes;

  // Where the same samples lie on the mask, in pixels: of the image, or of a mask that covers the box.
  AxisSamples<T> on_mask(const AxisSamples<T>& on_map, T low, int64_t extent, const AxisCells& cells) const {
    if (masks_in_image) {
      return {low - T(0.5), on_map.bin / static_cast<T>(cells.scale), on_map.grid, on_map.pooled, extent};
    }
    return {T(-0.5), static_cast<T>(extent) / static_cast<T>(on_map.pooled), on_map.grid, on_map.pooled, extent};
  }
};

Geometry masked_geometry(
    int64_t images, int64_t channels, int64_t height, int64_t width, PooledSize pooled, double spatial_scale,
    int64_t sampling_ratio, bool aligned) {
  const AxisCells cells = cells_of(spatial_scale, aligned);
  return {images, channels, height, width, pooled, cells, cells, sampling_ratio, !aligned};
}

void check_masks(const Tensor& masks, const Tensor& rois) {
  if (masks.dim() != 3 || masks.size(0) != rois.size(0) || masks.size(1) < 1 || masks.size(2) < 1) {
    fail("RA309: expected masks [K, h, w], one for each box, of at least 1 x 1");
  }
  if ((masks.scalar_type() != ScalarType::Bool && masks.scalar_type() != rois.scalar_type()) || !masks.is_cpu()) {
    fail("RA309: expected masks on the CPU, bool or in the type that the features are computed in");
  }
}

std::tuple<Tensor, Tensor> masked_roi_align(
    const Tensor& input, const Tensor& given_rois, const Tensor& masks, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned, bool masks_in_image) {
  check_map(input);
  const Geometry geometry = masked_geometry(
      input.size(0), input.size(1), input.size(2), input.size(3), {pooled_height, pooled_width}, spatial_scale,
      sampling_ratio, aligned);
  check_arguments(input, given_rois, geometry);
  check_masks(masks, given_rois);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  dispatch(input.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const MaskedMaker<compute_t<scalar_t>> maker(rois, masks, geometry, masks_in_image, false);
    pool_by_matrix<scalar_t>(input, geometry, maker, output, coverage);
  });
  return {output, coverage};
}

Tensor masked_roi_align_backward(
    const Tensor& grad, const Tensor& given_rois, const Tensor& masks, int64_t images, int64_t height, int64_t width,
    double spatial_scale, int64_t sampling_ratio, bool aligned, bool masks_in_image) {
  check_grad(grad, given_rois);
  const Geometry geometry = masked_geometry(
      images, grad.size(1), height, width, {grad.size(2), grad.size(3)}, spatial_scale, sampling_ratio, aligned);
  check_arguments(grad, given_rois, geometry);
  check_masks(masks, given_rois);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_input = torch::stable::new_empty(grad, {images, grad.size(1), height, width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const MaskedMaker<compute_t<scalar_t>> maker(rois, masks, geometry, masks_in_image, false);
    scatter_by_matrix<scalar_t>(grad, geometry, maker, grad_input);
  });
  return grad_input;
}

// Adds what the samples of one bin contribute to the gradients of their RoI.
template <typename T>
void differentiate_bin(
    const MaskedMaker<T>& maker, int64_t row, int64_t bin, const MaskedAxis<T>& rows, const MaskedAxis<T>& columns,
    double by_output, const std::vector<double>& of_taps, const MatrixBuilder<T>& builder, int64_t mask_width,
    MaskedGradient& gradient, T* grad_mask) {
  const double total = maker.total(row, bin, rows, columns);
  if (total == 0) {
    return;
  }
  const double divisor = total * maker.grid(row);
  const auto add = [&](const Bilinear<T>& r, const Bilinear<T>& c, double by_weight) {
    const double below = r.fraction, right = c.fraction;
    grad_mask[r.low * mask_width + c.low] += static_cast<T>(by_weight * (1 - below) * (1 - right));
    grad_mask[r.low * mask_width + c.high] += static_cast<T>(by_weight * (1 - below) * right);
    grad_mask[r.high * mask_width + c.low] += static_cast<T>(by_weight * below * (1 - right));
    grad_mask[r.high * mask_width + c.high] += static_cast<T>(by_weight * below * right);
  };
  maker.walk(bin, rows, columns, [&](const AxisSample<T>& r, const AxisSample<T>& c) {
    const Surface mask = maker.mask_at(row, r, c);
    double by_weight = 0;
    if (r.on_map && c.on_map) {
      const auto at = [&](int64_t y, int64_t x) { return of_taps[builder.tap(y, x)]; };
      const Surface feature(
          {at(r.cell.low, c.cell.low), at(r.cell.low, c.cell.high), at(r.cell.high, c.cell.low),
           at(r.cell.high, c.cell.high)},
          r.cell, c.cell);
      by_weight = feature.value / divisor;
      gradient.rows.add(feature.by_row * mask.value / divisor, r.share);
      gradient.columns.add(feature.by_column * mask.value / divisor, c.share);
      add(r.pixel, c.pixel, by_weight);
    }
    by_weight -= by_output / divisor;
    gradient.mask_rows.add(by_weight * mask.by_row, r.share);
    gradient.mask_columns.add(by_weight * mask.by_column, c.share);
  });
  maker.each_pixel(bin, rows, columns, [&](int64_t y, int64_t x, double share) {
    grad_mask[y * mask_width + x] -= static_cast<T>(by_output / total * share);
  });
}

template <typename scalar_t>
void correlate_masked(
    const Tensor& grad, const Tensor& input, const Tensor& rois, const Tensor& masks, const Geometry& geometry,
    bool masks_in_image, Tensor& grad_rois, Tensor& grad_masks) {
  using T = compute_t<scalar_t>;
  const MaskedMaker<T> maker(rois, masks, geometry, masks_in_image, true);
  const int64_t width = masks.size(2), mask_size = masks.size(1) * width;
  T* to_masks = grad_masks.mutable_data_ptr<T>();
  std::fill(to_masks, to_masks + grad_masks.numel(), T(0));
  std::vector<MaskedGradient> gradients(maker.count());
  correlate_by_matrix<scalar_t>(
      grad, input, geometry, maker,
      [&](const OwnedMatrix<T>& matrix, const std::vector<double>& of_taps, MatrixBuilder<T>& builder) {
        const int64_t row = matrix.piece.row;
        MaskedAxis<T> rows, columns;
        maker.build_axes(row, rows, columns);
        for (int64_t bin = 0; bin < matrix.piece.bins; ++bin) {
          double by_output = 0;
          for (int64_t tap = matrix.begin[bin]; tap < matrix.begin[bin + 1]; ++tap) {
            by_output += matrix.weight[tap] * of_taps[tap];
          }
          builder.look_up(matrix, bin);
          differentiate_bin(
              maker, row, matrix.piece.first_bin + bin, rows, columns, by_output, of_taps, builder, width,
              gradients[row], to_masks + row * mask_size);
        }
      });
  T* to = grad_rois.mutable_data_ptr<T>();
  for (int64_t row = 0; row < maker.count(); ++row, to += 5) {
    const auto sides = [&](SideGradient map, SideGradient mask, const AxisSamples<T>& axis, double scale, T* low) {
      const bool widened = geometry.widen && !(axis.bin * static_cast<T>(axis.pooled) > T(1));
      const double own = masks_in_image ? 1.0 : 0.0;
      const double start = map.start * scale + mask.start * own;
      const double size = widened ? 0.0 : map.size * scale + mask.size * own;
      low[0] = static_cast<T>(start - size);
      low[2] = static_cast<T>(size);
    };
    to[0] = T(0);
    sides(gradients[row].columns, gradients[row].mask_columns, maker.box(row).columns, geometry.columns.scale, to + 1);
    sides(gradients[row].rows, gradients[row].mask_rows, maker.box(row).rows, geometry.rows.scale, to + 2);
  }
}

std::tuple<Tensor, Tensor> masked_roi_align_backward_boxes(
    const Tensor& grad, const Tensor& input, const Tensor& given_rois, const Tensor& masks, double spatial_scale,
    int64_t sampling_ratio, bool aligned, bool masks_in_image) {
  check_grad(grad, given_rois);
  check_map(input);
  const Geometry geometry = masked_geometry(
      input.size(0), input.size(1), input.size(2), input.size(3), {grad.size(2), grad.size(3)}, spatial_scale,
      sampling_ratio, aligned);
  check_arguments(input, given_rois, geometry);
  check_grad_of(grad, input, geometry);
  check_masks(masks, given_rois);
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  Tensor grad_masks = torch::stable::new_empty(rois, {rois.size(0), masks.size(1), masks.size(2)});
  dispatch(input.scalar_type(), [&](auto scalar) {
    correlate_masked<decltype(scalar)>(
        grad, input, rois, masks, geometry, masks_in_image, grad_rois, grad_masks);
  });
  return {grad_rois, grad_masks};
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("masked_roi_align", TORCH_BOX(&roialign::masked_roi_align));
  m.impl("masked_roi_align_backward", TORCH_BOX(&roialign::masked_roi_align_backward));
  m.impl("masked_roi_align_backward_boxes", TORCH_BOX(&roialign::masked_roi_align_backward_boxes));
}
