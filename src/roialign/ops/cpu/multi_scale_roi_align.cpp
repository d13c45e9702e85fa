// RoIAlign from several feature maps at once, each box from one of them, and its gradients, on the CPU.
//
// Every map has scales and shifts of its own: cell = coordinate * scale - shift, along rows and columns.
#include "levels.h"

namespace roialign {
namespace {

constexpr size_t kNumbersPerLevel = 4;  // of `cells`: scale and shift of the rows, then of the columns

AxisCells rows_of(const std::vector<double>& cells, size_t level) {
  return {cells[level * kNumbersPerLevel], cells[level * kNumbersPerLevel + 1]};
}

AxisCells columns_of(const std::vector<double>& cells, size_t level) {
  return {cells[level * kNumbersPerLevel + 2], cells[level * kNumbersPerLevel + 3]};
}

void check_cells(const std::vector<double>& cells, size_t levels) {
  if (levels == 0 || cells.size() != kNumbersPerLevel * levels) {
    fail("RA401: expected at least one feature map and four numbers for each; got ", levels, " maps and ",
         cells.size(), " numbers");
  }
}

// The boxes of each level, in the order of `levels` [K].
std::vector<Rows> rows_by_level(const Tensor& levels, const Tensor& rois, size_t count) {
  if (levels.dim() != 1 || rois.dim() != 2 || levels.size(0) != rois.size(0) ||
      levels.scalar_type() != ScalarType::Long || !levels.is_cpu()) {
    fail("RA401: expected the level of each box, int64 [K] on the CPU");
  }
  const Tensor contiguous = as_contiguous(levels);
  const int64_t* level_of = contiguous.const_data_ptr<int64_t>();
  std::vector<Rows> rows(count);
  for (int64_t row = 0; row < levels.size(0); ++row) {
    if (level_of[row] < 0 || level_of[row] >= static_cast<int64_t>(count)) {
      fail("RA401: box ", row, " is of level ", level_of[row], ", of ", count, " levels");
    }
    rows[level_of[row]].push_back(row);
  }
  return rows;
}

void check_alike(const Tensor& input, const Tensor& first) {
  if (input.dim() != 4 || input.size(0) != first.size(0) || input.size(1) != first.size(1) ||
      input.scalar_type() != first.scalar_type()) {
    fail("RA306: expected feature maps [N, C, H, W] of one type, with the same N and C");
  }
}

std::tuple<Tensor, Tensor> multi_scale_roi_align(
    const std::vector<Tensor>& inputs, const Tensor& given_rois, const Tensor& levels,
    const std::vector<double>& cells, int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
    bool widen) {
  check_cells(cells, inputs.size());
  std::vector<Rows> rows = rows_by_level(levels, given_rois, inputs.size());
  std::vector<Geometry> geometries;
  for (size_t level = 0; level < inputs.size(); ++level) {
    geometries.push_back(geometry_of(
        inputs[level], {pooled_height, pooled_width}, rows_of(cells, level), columns_of(cells, level),
        sampling_ratio, widen));
    check_alike(inputs[level], inputs[0]);
    check_arguments(inputs[level], given_rois, geometries[level]);
  }
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(inputs[0], rois, geometries[0]);
  for (size_t level = 0; level < inputs.size(); ++level) {
    pool_level(inputs[level], rois, std::move(rows[level]), geometries[level], output, coverage);
  }
  return {output, coverage};
}

std::vector<Tensor> multi_scale_roi_align_backward(
    const Tensor& grad, const Tensor& given_rois, const Tensor& levels, int64_t images,
    const std::vector<int64_t>& heights, const std::vector<int64_t>& widths, const std::vector<double>& cells,
    int64_t sampling_ratio, bool widen) {
  check_grad(grad, given_rois);
  check_cells(cells, heights.size());
  if (widths.size() != heights.size()) {
    fail("RA306: expected as many widths as heights");
  }
  std::vector<Rows> rows = rows_by_level(levels, given_rois, heights.size());
  const Tensor rois = as_contiguous(given_rois);
  std::vector<Tensor> grads;
  for (size_t level = 0; level < heights.size(); ++level) {
    const Geometry geometry{
        images, grad.size(1), heights[level], widths[level], {grad.size(2), grad.size(3)},
        rows_of(cells, level), columns_of(cells, level), sampling_ratio, widen};
    check_arguments(grad, given_rois, geometry);
    grads.push_back(scatter_level(grad, rois, std::move(rows[level]), geometry));
  }
  return grads;
}

Tensor multi_scale_roi_align_backward_boxes(
    const Tensor& grad, const std::vector<Tensor>& inputs, const Tensor& given_rois, const Tensor& levels,
    const std::vector<double>& cells, int64_t sampling_ratio, bool widen) {
  check_grad(grad, given_rois);
  check_cells(cells, inputs.size());
  std::vector<Rows> rows = rows_by_level(levels, given_rois, inputs.size());
  const Tensor rois = as_contiguous(given_rois);
  Tensor grad_rois = torch::stable::new_empty(rois, {rois.size(0), 5});
  for (size_t level = 0; level < inputs.size(); ++level) {
    const Geometry geometry = geometry_of(
        inputs[level], {grad.size(2), grad.size(3)}, rows_of(cells, level), columns_of(cells, level),
        sampling_ratio, widen);
    check_alike(inputs[level], inputs[0]);
    check_arguments(inputs[level], given_rois, geometry);
    correlate_level(grad, inputs[level], rois, std::move(rows[level]), geometry, grad_rois);
  }
  return grad_rois;
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("multi_scale_roi_align", TORCH_BOX(&roialign::multi_scale_roi_align));
  m.impl("multi_scale_roi_align_backward", TORCH_BOX(&roialign::multi_scale_roi_align_backward));
  m.impl("multi_scale_roi_align_backward_boxes", TORCH_BOX(&roialign::multi_scale_roi_align_backward_boxes));
}
