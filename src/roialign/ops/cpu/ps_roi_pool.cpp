// ps_roi_pool on the CPU, and its gradient: the mean over each bin, whose sides are whole cells, of a plane of its own.
//
// As torchvision has it, bins do not reach the last row and the last column of the map. torchvision's gradient is that
// of bins that do; `with_last` chooses.
#include "cells.h"
#include "position_sensitive.h"

namespace roialign {
namespace {

template <typename T, bool with_last>
class CellRule {
 public:
  CellRule(const T* rois, const Geometry& geometry) : rois(rois), geometry(geometry) {}

  int64_t image(int64_t row) const { return bins_of(row).image; }

  double cells(int64_t row) const {
    const RoiBins<T> bins = bins_of(row);
    const auto of_axis = [](const AxisBins<T>& axis) {
      const double span = static_cast<double>(std::min(axis.cells, axis.extent));
      return span + 2 * static_cast<double>(axis.pooled);
    };
    return of_axis(bins.rows) + of_axis(bins.columns);
  }

  T taps(int64_t row, AxisTaps<T>& rows, AxisTaps<T>& columns) const {
    const RoiBins<T> bins = bins_of(row);
    fill(bins.rows, rows);
    fill(bins.columns, columns);
    return bins.coverage(geometry);
  }

 private:
  const T* rois;
  const Geometry& geometry;

  RoiBins<T> bins_of(int64_t row) const {
    const int64_t left_out = with_last ? 0 : 1;
    return RoiBins<T>(
        rois + row * 5, row, geometry, {false, geometry.height - left_out, geometry.width - left_out});
  }

  static void fill(const AxisBins<T>& bins, AxisTaps<T>& taps) {
    taps.begin.assign(1, 0);
    taps.cell.clear();
    taps.weight.clear();
    for (int64_t bin = 0; bin < bins.pooled; ++bin) {
      const int64_t first = bins.first(bin), last = bins.last(bin);
      const T weight = T(1) / static_cast<T>(std::max<int64_t>(last - first, 1));
      for (int64_t cell = first; cell < last; ++cell) {
        taps.cell.push_back(cell);
        taps.weight.push_back(weight);
      }
      taps.begin.push_back(static_cast<int64_t>(taps.cell.size()));
    }
  }
};

template <typename T>
using WithLast = CellRule<T, true>;
template <typename T>
using WithoutLast = CellRule<T, false>;

std::tuple<Tensor, Tensor> ps_roi_pool(
    const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width, double spatial_scale,
    bool with_last, bool /*with_last_in_gradient*/) {
  const AxisCells cells{spatial_scale, 0};
  const Geometry geometry = geometry_of(input, {pooled_height, pooled_width}, cells, cells, 1, false);
  return with_last ? pool_own<WithLast>(input, rois, geometry) : pool_own<WithoutLast>(input, rois, geometry);
}

Tensor ps_roi_pool_backward(
    const Tensor& grad, const Tensor& rois, int64_t images, int64_t height, int64_t width, double spatial_scale,
    bool with_last) {
  check_grad(grad, rois);
  const AxisCells cells{spatial_scale, 0};
  const PooledSize pooled{grad.size(2), grad.size(3)};
  const Geometry geometry{
      images, grad.size(1) * pooled.cells(), height, width, pooled, cells, cells, 1, false};
  return with_last ? scatter_own<WithLast>(grad, rois, geometry) : scatter_own<WithoutLast>(grad, rois, geometry);
}

}  // namespace
}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("ps_roi_pool", TORCH_BOX(&roialign::ps_roi_pool));
  m.impl("ps_roi_pool_backward", TORCH_BOX(&roialign::ps_roi_pool_backward));
}
