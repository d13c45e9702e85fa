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

template <typename T>
struct OwnedTapBlock {
  struct Axis {
    std::vector<int64_t> begin, cell;
    std::vector<T> weight;
  };
  std::vector<int64_t> row, image, starts, windows, first_weight;
  Axis rows, columns;
  std::vector<T> weights;

  TapBlock<T> view() const {
    const auto of = [](const Axis& axis) {
      return BlockTaps<T>{axis.begin.data(), axis.cell.data(), axis.weight.data()};
    };
    return {static_cast<int64_t>(row.size()), row.data(), image.data(), of(rows), of(columns),
            starts.data(), windows.data(), first_weight.data(), weights.data()};
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
        std::vector<AxisTaps<T>> rows(kRoisPerBlock), columns(kRoisPerBlock);
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
    return (cells + 3 * bins) * (sizeof(int64_t) + sizeof(T)) + 4 * 8 * bins;
  }

  void make(
      int64_t pass, int64_t first, std::vector<AxisTaps<T>>& rows, std::vector<AxisTaps<T>>& columns,
      OwnedTapBlock<T>& to, T* coverage) const {
    const int64_t count = std::min(kRoisPerBlock, size(pass) - first);
    to.row.clear();
    to.image.clear();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = order.row(pass, first + k);
      to.row.push_back(row);
      to.image.push_back(rule.image(row));
      const T covered = rule.taps(row, rows[k], columns[k]);
      if (coverage != nullptr) {
        coverage[row] = covered;
      }
    }
    gather(rows, count, geometry.pooled.height, kRowLanes, to.rows);
    gather(columns, count, geometry.pooled.width, 1, to.columns);
    cut_windows(to);
  }

  // Taps by bins and within a bin by RoIs, padded to groups of `lanes` with weights of 0.
  static void gather(
      const std::vector<AxisTaps<T>>& taps, int64_t count, int64_t bins, int64_t lanes,
      typename OwnedTapBlock<T>::Axis& to) {
    to.begin.resize(bins * count + 1);
    int64_t total = 0;
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t k = 0; k < count; ++k) {
        to.begin[bin * count + k] = total;
        total += (taps[k].begin[bin + 1] - taps[k].begin[bin] + lanes - 1) / lanes * lanes;
      }
    }
    to.begin[bins * count] = total;
    to.cell.resize(total);
    to.weight.resize(total);
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t first = taps[k].begin[bin], taken = taps[k].begin[bin + 1] - first;
        const int64_t begin = to.begin[bin * count + k], end = to.begin[bin * count + k + 1];
        for (int64_t tap = begin; tap < end; ++tap) {
          const int64_t own = std::min(tap - begin, taken - 1);
          to.cell[tap] = taps[k].cell[first + own];
          to.weight[tap] = tap - begin < taken ? taps[k].weight[first + own] : T(0);
        }
      }
    }
  }

  void cut_windows(OwnedTapBlock<T>& to) const {
    const int64_t bins = static_cast<int64_t>(to.columns.begin.size()) - 1;
    const int64_t* cells = to.columns.cell.data();
    to.starts.assign(bins, 0);
    to.windows.assign(bins, 0);
    to.first_weight.assign(bins, 0);
    int64_t total = 0;
    for (int64_t bin = 0; bin < bins; ++bin) {
      const int64_t first = to.columns.begin[bin], last = to.columns.begin[bin + 1];
      to.first_weight[bin] = total;
      const int64_t windows = first == last ? 0 : (cells[last - 1] - cells[first] + kWindow) / kWindow;
      if (windows * kWindow <= geometry.width && windows <= 1 + kWindowsPerTap * (last - first) / kWindow) {
        to.windows[bin] = windows;
        to.starts[bin] = first == last ? 0 : std::min(cells[first], geometry.width - windows * kWindow);
        total += windows * kWindow;
      }
    }
    to.weights.assign(total, T(0));
    for (int64_t bin = 0; bin < bins; ++bin) {
      T* weights = to.weights.data() + to.first_weight[bin] - to.starts[bin];
      for (int64_t tap = to.columns.begin[bin]; to.windows[bin] > 0 && tap < to.columns.begin[bin + 1]; ++tap) {
        weights[cells[tap]] = to.columns.weight[tap];
      }
    }
  }
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
  dispatch(input.scalar_type(), [&](auto scalar) {
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
      const auto pool_row = [&](int64_t row, const OwnedTapBlock<T>& block, int64_t begin, int64_t end) {
        pool(block.view(), begin, end,
             {features + row * pooled.width * input.stride(1), input.stride(0), input.stride(1), input.stride(2),
              by_roi ? input.stride(3) : 1, row % pooled.height, pooled.width, result + row * pooled.width,
              rows_of_bins * pooled.width});
      };
      const int64_t tasks = count * rows_of_bins;
      const int64_t values = passes.size(pass) * rows_of_bins * pooled.width;
      torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, values), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const auto& block = blocks[by_roi ? task / rows_of_bins : task % count];
          pool_row(by_roi ? task % rows_of_bins : task / count, block, 0, static_cast<int64_t>(block.row.size()));
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
        for (int64_t channel = part.channel; channel < part.channel + part.channels; ++channel) {
          const int64_t q = channel % pooled.width, p = channel / pooled.width % pooled.height;
          const scalar_t* upstream = values_of<scalar_t>(grad) + channel / pooled.cells() * grad.stride(1) +
              p * grad.stride(2) + q * grad.stride(3);
          for (const OwnedTapBlock<T>& block : blocks) {
            kernels_for<scalar_t>().scatter_own_plane(
                block.view(),
                {upstream, grad.stride(0), p, q, part.sums + (channel - part.channel) * part.plane_size,
                 part.image_pitch, geometry.width, part.top, part.bottom});
          }
        }
      }};
    });
  });
  return grad_input;
}

}  // namespace roialign
