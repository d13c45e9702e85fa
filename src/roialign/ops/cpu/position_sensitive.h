// The engine of ps_roi_align and ps_roi_pool on the CPU: plans, forward and backward to the features.
//
// Bin (p, q) of channel c of the output reads the plane (c * height + p) * width + q, and of it what the taps of
// its rows and columns say. A Rule says what those are: it has
//   Rule(rois, geometry)                         rois [K, 5]
//   double cells(row)                            about how many taps a box has; fails where the box cannot be used
//   int64_t image(row)
//   T taps(row, AxisTaps& rows, AxisTaps& columns)   builds them, and returns the coverage
#pragma once

#include "levels.h"
#include "order.h"
#include "slabs.h"

namespace roialign {

constexpr int64_t kRoisPerBlock = 64;
constexpr int64_t kWindowsPerTap = 2;  // windows of more cells than so many for each tap are mostly zeros

// See BlockTaps.
template <typename T>
struct OwnedAxis {
  std::vector<int64_t> begin, cell, start, windows, first_weight;
  std::vector<T> weight, window_weight;

  // Empties it, for so many bins.
  void clear(int64_t bins) {
    for (auto* values : {&begin, &cell, &start, &windows, &first_weight}) {
      values->clear();
      values->reserve(bins + 1);
    }
    weight.clear();
    window_weight.clear();
    cell.reserve(bins * kWindow);
    weight.reserve(bins * kWindow);
    window_weight.reserve(bins * kWindow);
    begin.push_back(0);
  }

  // Adds a RoI's, and returns whether each of its bins has one window.
  bool add(const AxisTaps<T>& taps, int64_t extent) {
    const int64_t before = static_cast<int64_t>(cell.size());
    cell.insert(cell.end(), taps.cell.begin(), taps.cell.end());
    weight.insert(weight.end(), taps.weight.begin(), taps.weight.end());
    bool small = true;
    for (size_t bin = 0; bin + 1 < taps.begin.size(); ++bin) {
      begin.push_back(before + taps.begin[bin + 1]);
      small &= add_windows(begin[begin.size() - 2], begin.back(), extent) == 1;
    }
    return small;
  }

  BlockTaps<T> view(int64_t bins) const {
    return {bins, begin.data(), cell.data(), weight.data(), start.data(), windows.data(), first_weight.data(),
            window_weight.data()};
  }

 private:
  int64_t add_windows(int64_t first, int64_t last, int64_t extent) {
    const int64_t low = first == last ? 0 : cell[first];
    int64_t count = first == last ? 1 : (cell[last - 1] - low + kWindow) / kWindow;
    if (count * kWindow > extent || count > 1 + kWindowsPerTap * (last - first) / kWindow) {
      count = 0;
    }
    const int64_t from = std::max<int64_t>(std::min(low, extent - count * kWindow), 0);
    const int64_t weights = static_cast<int64_t>(window_weight.size());
    start.push_back(from);
    windows.push_back(count);
    first_weight.push_back(weights);
    window_weight.resize(weights + count * kWindow, T(0));
    for (int64_t tap = first; count > 0 && tap < last; ++tap) {
      window_weight[weights + cell[tap] - from] = weight[tap];
    }
    return count;
  }
};

template <typename T>
struct OwnedTapBlock {
  std::vector<int64_t> row, image;
  std::vector<uint8_t> small;
  OwnedAxis<T> rows, columns;

  void clear(int64_t rois, const PooledSize& pooled) {
    row.clear();
    image.clear();
    small.clear();
    rows.clear(rois * pooled.height);
    columns.clear(rois * pooled.width);
  }

  TapBlock<T> view(const PooledSize& pooled) const {
    return {static_cast<int64_t>(row.size()), row.data(), image.data(), small.data(), rows.view(pooled.height),
            columns.view(pooled.width)};
  }
};

// The taps of all RoIs, in passes that bound their memory.
template <typename T, typename Rule>
class TapPasses {
 public:
  TapPasses(const Tensor& rois, const Geometry& geometry)
      : geometry(geometry), rule(rois.const_data_ptr<T>(), geometry),
        order(rois.const_data_ptr<T>(), 5, all_rows(rois), [&](int64_t row) { return bytes_of(rule.cells(row)); }) {}

  int64_t count() const { return order.passes(); }
  int64_t size(int64_t pass) const { return order.size(pass); }

  // The blocks of a pass. Writes each box's coverage, if there is room for it.
  const std::vector<OwnedTapBlock<T>>& blocks(int64_t pass, T* coverage) {
    if (held != pass) {
      held = pass;
      const int64_t count = (size(pass) + kRoisPerBlock - 1) / kRoisPerBlock;
      owned.resize(count);
      torch::stable::parallel_for(0, count, 2, [&](int64_t begin, int64_t end) {
        AxisTaps<T> rows, columns;
        for (int64_t block = begin; block < end; ++block) {
          make(pass, block * kRoisPerBlock, rows, columns, owned[block], coverage);
        }
      });
    }
    return owned;
  }

 private:
  const Geometry& geometry;
  Rule rule;
  Order order;
  std::vector<OwnedTapBlock<T>> owned;
  int64_t held = -1;

  double bytes_of(double cells) const {
    const double bins = static_cast<double>(geometry.pooled.height + geometry.pooled.width);
    return (cells + kWindow * bins) * (sizeof(int64_t) + 2 * sizeof(T)) + 4 * 8 * bins;
  }

  void make(int64_t pass, int64_t first, AxisTaps<T>& rows, AxisTaps<T>& columns, OwnedTapBlock<T>& to, T* coverage)
      const {
    const int64_t last = std::min(first + kRoisPerBlock, size(pass));
    to.clear(last - first, geometry.pooled);
    for (int64_t place = first; place < last; ++place) {
      const int64_t row = order.row(pass, place);
      const T covered = rule.taps(row, rows, columns);
      if (coverage != nullptr) {
        coverage[row] = covered;
      }
      const bool small_rows = to.rows.add(rows, geometry.height);
      const bool small_columns = to.columns.add(columns, geometry.width);
      to.row.push_back(row);
      to.image.push_back(rule.image(row));
      to.small.push_back(small_rows && small_columns ? 1 : 0);
    }
  }
};

// Fetches the planes of a row of bins, if RoIs read most of them: they lie anywhere, and memory is several times as fast
// in its own order.
template <typename scalar_t>
class PlaneFetch {
 public:
  PlaneFetch(const Tensor& input, const Geometry& geometry, int64_t rois)
      : planes(geometry.pooled.width), stride(input.stride(1)),
        values((geometry.height - 1) * input.stride(2) + geometry.width) {
    const int64_t lines_read = rois / std::max<int64_t>(geometry.images, 1) * kLinesPerRoi;
    if (values > lines_read * kLine || planes * values > kLargest) {
      values = 0;
    }
  }

  void operator()(const scalar_t* first) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      for (int64_t i = 0; i < values; i += kLine) {
        __builtin_prefetch(first + plane * stride + i);
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(scalar_t));
  static constexpr int64_t kLinesPerRoi = 8;  // about twice what one reads of a plane
  static constexpr int64_t kLargest = (4 << 20) / static_cast<int64_t>(sizeof(scalar_t));

  int64_t planes, stride, values;
};

inline void check_own_planes(int64_t channels, const PooledSize& pooled) {
  if (pooled.height >= 1 && pooled.width >= 1 && channels % pooled.cells() != 0) {
    fail("RA506: expected channels that are a multiple of the ", pooled.height, " x ", pooled.width,
         " bins, one for each; got ", channels);
  }
}

// Features [K, C / bins, h, w] and coverage [K].
template <template <typename> class Rule>
std::tuple<Tensor, Tensor> pool_own(const Tensor& given_input, const Tensor& given_rois, const Geometry& geometry) {
  check_arguments(given_input, given_rois, geometry);
  check_own_planes(geometry.channels, geometry.pooled);
  const Tensor input = readable(given_input);
  const Tensor rois = as_contiguous(given_rois);
  const PooledSize pooled = geometry.pooled;
  Geometry of_output = geometry;
  of_output.channels = geometry.channels / pooled.cells();
  auto [output, coverage] = new_output(input, rois, of_output);
  dispatch(input.scalar_type(), [&, &output = output, &coverage = coverage](auto scalar) {
    using scalar_t = decltype(scalar);
    using T = compute_t<scalar_t>;
    const scalar_t* features = values_of<scalar_t>(input);
    scalar_t* result = static_cast<scalar_t*>(output.mutable_data_ptr());
    const auto pool = kernels_for<scalar_t>().pool_own_planes;
    const int64_t rows_of_bins = of_output.channels * pooled.height;
    // One RoI after the other where the planes of a cell are neighbours in memory; else plane after plane.
    const bool by_roi = !has_dense_rows(input);
    TapPasses<T, Rule<T>> passes(rois, geometry);
    for (int64_t pass = 0; pass < passes.count(); ++pass) {
      const auto& blocks = passes.blocks(pass, coverage.template mutable_data_ptr<T>());
      const int64_t count = static_cast<int64_t>(blocks.size());
      const auto first_plane = [&](int64_t row) { return features + row * pooled.width * input.stride(1); };
      const auto pool_row = [&](int64_t row, const OwnedTapBlock<T>& block) {
        pool(block.view(pooled), 0, static_cast<int64_t>(block.row.size()),
             {first_plane(row), input.stride(0), input.stride(1), input.stride(2), by_roi ? input.stride(3) : 1,
              row % pooled.height, pooled.width, result + row * pooled.width, rows_of_bins * pooled.width});
      };
      const PlaneFetch<scalar_t> fetch(input, geometry, passes.size(pass));
      const int64_t tasks = count * rows_of_bins;
      const int64_t values = passes.size(pass) * rows_of_bins * pooled.width;
      torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, values), [&](int64_t begin, int64_t end) {
        int64_t fetched = -1;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = by_roi ? task % rows_of_bins : task / count;
          const auto& block = blocks[by_roi ? task / rows_of_bins : task % count];
          const int64_t planes = row * geometry.images + block.image[0];
          if (!by_roi && planes != fetched) {
            fetch(first_plane(row) + block.image[0] * input.stride(0));
            fetched = planes;
          }
          pool_row(row, block);
        }
      });
    }
  });
  return {output, coverage};
}

// The gradient [N, C, H, W] to the features, of `grad` [K, C / bins, h, w].
template <template <typename> class Rule>
Tensor scatter_own(const Tensor& grad, const Tensor& given_rois, const Geometry& geometry) {
  check_arguments(grad, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  const PooledSize pooled = geometry.pooled;
  Tensor grad_input = torch::stable::new_empty(
      grad, {geometry.images, geometry.channels, geometry.height, geometry.width});
  dispatch(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using T = compute_t<scalar_t>;
    TapPasses<T, Rule<T>> passes(rois, geometry);
    Geometry of_planes = geometry;
    of_planes.pooled = {1, 1};  // each plane takes one bin of each box
    sum_gradient<scalar_t>(of_planes, grad_input, passes.count(), [&](int64_t pass) {
      const auto& blocks = passes.blocks(pass, nullptr);
      return Summands<T>{passes.size(pass), [&](const Part<T>& part) {
        int64_t bins = 0;
        for (int64_t channel = part.channel; channel < part.channel + part.channels; channel += bins) {
          const int64_t q = channel % pooled.width, p = channel / pooled.width % pooled.height;
          bins = std::min(pooled.width - q, part.channel + part.channels - channel);
          const scalar_t* upstream = values_of<scalar_t>(grad) + channel / pooled.cells() * grad.stride(1) +
              p * grad.stride(2) + q * grad.stride(3);
          for (const OwnedTapBlock<T>& block : blocks) {
            kernels_for<scalar_t>().scatter_own_planes(
                block.view(pooled),
                {upstream, grad.stride(0), grad.stride(3), p, q, bins,
                 part.sums + (channel - part.channel) * part.plane_size, part.plane_size, part.image_pitch,
                 geometry.width, part.top, part.bottom});
          }
        }
      }};
    });
  });
  return grad_input;
}

}  // namespace roialign
