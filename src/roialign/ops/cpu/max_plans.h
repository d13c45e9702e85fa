// The plans of roi_pool, forward and backward: which cells each bin of a RoI reads.
#pragma once

#include "cells.h"
#include "levels.h"
#include "order.h"

namespace roialign {

struct OwnedMaxPlan {
  MaxPlan plan;
  int64_t row;  // of the box
  std::vector<int64_t> integers;
};

// The plans of all RoIs, in passes that bound their memory. RoIs of bad values are reported before any plan is made.
template <typename T>
class MaxPlans {
 public:
  MaxPlans(const T* rois, Rows rows, const Geometry& geometry, int64_t lanes)
      : rois(rois), geometry(geometry), lanes(lanes),
        order(rois, 5, std::move(rows), [this](int64_t row) { return bytes_of(bins_of(row)); }) {}

  int64_t count() const { return order.passes(); }
  int64_t size(int64_t pass) const { return order.size(pass); }
  RoiBins<T> bins_of(int64_t row) const {
    return RoiBins<T>(rois + row * 5, row, geometry, {true, geometry.height, geometry.width});
  }

  const std::vector<OwnedMaxPlan>& plans(int64_t pass) {
    if (held != pass) {
      held = pass;
      owned.resize(size(pass));
      torch::stable::parallel_for(0, size(pass), kRoisPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          owned[k].row = order.row(pass, k);
          make(bins_of(owned[k].row), owned[k]);
        }
      });
    }
    return owned;
  }

 private:
  static constexpr int64_t kRoisPerThread = 512;  // worth waking a thread for

  const T* rois;
  const Geometry& geometry;
  int64_t lanes;
  Order order;
  std::vector<OwnedMaxPlan> owned;
  int64_t held = -1;

  // Cells of a bin along one axis, at most.
  static double cells_of(const AxisBins<T>& bins) {
    return std::min(std::ceil(static_cast<double>(bins.bin)) + 1, static_cast<double>(bins.extent));
  }

  static double bytes_of(const RoiBins<T>& bins) {
    const double rows = static_cast<double>(bins.rows.pooled) * cells_of(bins.rows);
    return sizeof(OwnedMaxPlan) + 8 * (rows + 2 * static_cast<double>(bins.columns.pooled));
  }

  // The bins that hold cells of the map: one run, for bins follow one another.
  static std::pair<int64_t, int64_t> run_of(const AxisBins<T>& bins) {
    int64_t first = 0, last = bins.pooled;
    while (first < last && bins.first(first) >= bins.last(first)) {
      ++first;
    }
    while (first < last && bins.first(last - 1) >= bins.last(last - 1)) {
      --last;
    }
    return {first, last};
  }

  void make(const RoiBins<T>& bins, OwnedMaxPlan& to) const {
    const auto [top, bottom] = run_of(bins.rows);
    const auto [left, right] = run_of(bins.columns);
    to.integers.clear();
    to.plan = {};
    to.plan.image = bins.image;
    if (top == bottom || left == right) {
      return;
    }
    int64_t tallest = 0, widest = 0;
    for (int64_t p = top; p < bottom; ++p) {
      tallest = std::max(tallest, bins.rows.last(p) - bins.rows.first(p));
    }
    for (int64_t q = left; q < right; ++q) {
      widest = std::max(widest, bins.columns.last(q) - bins.columns.first(q));
    }
    const int64_t first_column = bins.columns.first(left);
    const int64_t start = std::min(first_column, std::max<int64_t>(bins.columns.extent - lanes, 0));
    for (int64_t p = top; p < bottom; ++p) {
      for (int64_t j = 0; j < tallest; ++j) {
        to.integers.push_back(std::min(bins.rows.first(p) + j, bins.rows.last(p) - 1));
      }
    }
    for (int64_t q = left; q < right; ++q) {
      to.integers.push_back(bins.columns.first(q) - start);
    }
    for (int64_t q = left; q < right; ++q) {
      to.integers.push_back(bins.columns.last(q) - start);
    }
    const int64_t* rows = to.integers.data();
    const int64_t* begin = rows + (bottom - top) * tallest;
    to.plan = {bins.image, top, bottom, left, right, tallest, rows, start, bins.columns.last(right - 1) - start,
               widest, begin, begin + (right - left)};
  }
};

}  // namespace roialign
