// RoIAlign on the CPU, against LibTorch's stable ABI: one binary for every Python and every torch from
// 2.10 on.
//
// out[c] = Ay * F[c] * Ax^T, where Ay and Ax hold the merged bilinear weights of a RoI's rows and
// columns. They are made once for each RoI; threads then share out RoIs and blocks of channels.
#include <atomic>

#include "few_taps.h"
#include "levels.h"
#include "strips.h"

namespace roialign {
namespace {

constexpr int64_t kLeastChannels = 32;  // together they write long runs of the output
constexpr int64_t kFewChannels = 16;    // that are pooled in less time than their plan is kept and found again
constexpr int64_t kValuesOfRoi = 40;    // that are pooled in the time that a RoI takes otherwise

// Products of a row's tap and a column's, of all bins of a RoI, up to which taps are multiplied one by one: with any
// number of channels, for all of them together, and the same of neighbouring channels, which vectors take better.
// Measured on a Xeon with AVX-512 for 1 to 1024 channels: 1 x 1 to 7 x 7 bins of 1 to 16 samples.
constexpr int64_t kFewProducts = 64, kFewProductsOfAll = 1 << 13, kFewProductsByChannel = 1 << 11;

// How a map is read: by neighbouring cells of a plane, or by neighbouring channels of a cell.
template <typename scalar_t>
struct Layout {
  typedef compute_t<scalar_t> T;
  bool by_channel;
  PlanForm form;
  void (*pool)(const RoiPlan<T>&, const PoolCall<scalar_t>&);

  Layout(const Tensor& input, const Geometry& geometry) : by_channel(!has_dense_rows(input)) {
    const auto& kernels = kernels_for<scalar_t>();
    const int64_t lanes = vector_lanes<T>();
    const bool few_bins = 2 * geometry.pooled.width <= lanes;
    if (by_channel) {
      form = {input.stride(2), input.stride(3), 1, 0, false};
      pool = kernels.pool_channels;
    } else {
      form = {input.stride(2), 1, lanes, few_bins ? lanes / 2 : lanes, false};
      pool = few_bins ? kernels.pool_planes_of_few_bins : kernels.pool_planes;
    }
  }

  int64_t values_per_bin(const RoiPlan<T>& plan, int64_t pooled_width) const {
    return (plan.pieces + (by_channel ? pooled_width : 0)) * vector_lanes<T>();
  }
};

// One call, or one strip of its result.
template <typename scalar_t>
class Pooling {
 public:
  typedef compute_t<scalar_t> T;

  Pooling(const Tensor& input, const Tensor& rois, const Geometry& geometry, Tensor& output, Tensor& coverage)
      : geometry(geometry),
        layout(input, geometry),
        boxes(rois.const_data_ptr<T>()),
        features(values_of<scalar_t>(input)),
        image_stride(input.stride(0)),
        channel_stride(input.stride(1)),
        lanes(std::min(vector_lanes<T>(), geometry.width)),
        cells(geometry.all_bins().cells()),
        first_bin(geometry.strip.row * geometry.all_bins().width + geometry.strip.column),
        pooled(static_cast<scalar_t*>(output.mutable_data_ptr())),
        covered(coverage.mutable_data_ptr<T>()) {}

  void operator()(Rows rows) {
    const int64_t products = FewTaps<T>::products_of_any(geometry);
    const bool few_taps = products > 0 && are_few(products);
    const int64_t size = static_cast<int64_t>(rows.size()), threads = torch::stable::get_num_threads();
    const bool few_channels = geometry.channels <= kFewChannels &&
        (size >= 4 * threads || size * values_of_roi() <= kValuesPerThread);  // as threads share out RoIs
    if (!is_strip() && (few_taps || few_channels)) {
      by_rois(rows, few_taps);
    } else {
      by_plans(std::move(rows));
    }
  }

 private:
  Geometry geometry;
  Layout<scalar_t> layout;
  const T* boxes;
  const scalar_t* features;
  int64_t image_stride, channel_stride, lanes;
  int64_t cells, first_bin;  // of the whole result
  scalar_t* pooled;
  T* covered;

  // Plans are kept, and used for one block of channels after the other.
  void by_plans(Rows rows) const {
    Passes<T> passes(boxes, std::move(rows), geometry, layout.form);
    for (int64_t pass = 0; pass < passes.count(); ++pass) {
      const auto& plans = passes.plans(pass);
      const int64_t size = passes.size(pass), block = channels_of_task(size);
      const int64_t blocks = (geometry.channels + block - 1) / block, tasks = blocks * size;
      for (int64_t k = 0; k < size; ++k) {
        cover(plans[k].row, plans[k].coverage);
      }
      const auto work = [&](int64_t begin, int64_t end) {
        Scratch<T> scratch;
        for (int64_t task = begin; task < end; ++task) {
          // Planes stay for all RoIs; of channels, RoIs that are neighbours read the same cells.
          const int64_t k = layout.by_channel ? task / blocks : task % size;
          const int64_t channel = (layout.by_channel ? task % blocks : task / size) * block;
          pool(plans[k].plan, plans[k].row, channel, std::min(block, geometry.channels - channel), scratch);
        }
      };
      torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, size * values_of_roi()), work);
    }
  }

  // What a RoI reads is found where it is used: for all channels at once, or with few taps for each block anew.
  void by_rois(const Rows& rows, bool few_taps) const {
    const int64_t size = static_cast<int64_t>(rows.size()), work_of_all = size * (values_of_roi() + kValuesOfRoi);
    const int64_t block =
        few_taps && work_of_all > kValuesPerThread ? channels_of_task(size) : std::max<int64_t>(geometry.channels, 1);
    const int64_t tasks = std::max<int64_t>((geometry.channels + block - 1) / block, 1) * size;
    std::atomic<bool> are_bad = false;
    const auto work = [&](int64_t begin, int64_t end) {
      Planner<T> planner(layout.form);
      Scratch<T> scratch;
      try {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = rows[task % size], channel = task / size * block;
          const T share = pool_one(row, channel, std::min(block, geometry.channels - channel), planner, scratch);
          if (channel == 0) {
            cover(row, share);
          }
        }
      } catch (const std::runtime_error&) {
        are_bad = true;
      }
    };
    torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, work_of_all), work);
    if (are_bad) {
      for (const int64_t row : rows) {
        samples_of(row);  // reports the first of them
      }
    }
  }

  RoiSamples<T> samples_of(int64_t row) const {
    return RoiSamples<T>(boxes + row * geometry.box_columns(), row, geometry);
  }

  bool is_strip() const { return geometry.pooled.cells() < cells; }  // its channels are not neighbours in the result
  int64_t values_of_roi() const { return geometry.channels * geometry.pooled.cells(); }

  int64_t channels_of_task(int64_t rois) const {
    if (is_strip()) {
      return 1;
    }
    const int64_t plane_bytes = geometry.height * geometry.width * static_cast<int64_t>(sizeof(scalar_t));
    return layout.by_channel ? 4 * vector_lanes<T>()
                             : channels_at_once(geometry.channels, plane_bytes, kLeastChannels, rois);
  }

  void pool(const RoiPlan<T>& plan, int64_t row, int64_t channel, int64_t channels, Scratch<T>& scratch) const {
    const int64_t values = layout.values_per_bin(plan, geometry.pooled.width);
    const int64_t bins = Scratch<T>::bins_at_once(values, geometry.pooled.height);
    layout.pool(
        plan,
        {features + plan.image * image_stride + channel * channel_stride, channel_stride, channels, lanes, bins,
         geometry.pooled, scratch.room_for(bins, values),
         pooled + (row * geometry.channels + channel) * cells + first_bin});
  }

  T pool_one(int64_t row, int64_t channel, int64_t channels, Planner<T>& planner, Scratch<T>& scratch) const {
    const RoiSamples<T> samples = samples_of(row);
    if (!geometry.is_volume() && FewTaps<T>::hold(samples.rows) && FewTaps<T>::hold(samples.columns) &&
        are_few(FewTaps<T>::products(samples.rows, samples.columns))) {
      const FewTaps<T> rows(samples.rows, layout.form.row_pitch), columns(samples.columns, layout.form.column_pitch);
      kernels_for<scalar_t>().pool_taps(
          rows.matrix(), columns.matrix(),
          {features + samples.image * image_stride + channel * channel_stride, channel_stride, channels, lanes, 0,
           geometry.pooled, nullptr, pooled + (row * geometry.channels + channel) * cells});
      return rows.on_map * columns.on_map / (rows.total * columns.total);
    }
    const auto [plan, share] = planner.make(samples);
    pool(plan, row, channel, channels, scratch);
    return share;
  }

  bool are_few(int64_t products) const {
    return layout.by_channel ? products * geometry.channels <= kFewProductsByChannel
                             : products <= kFewProducts || products * geometry.channels <= kFewProductsOfAll;
  }

  // Strips add up.
  void cover(int64_t row, T share) const { covered[row] = (first_bin > 0 ? covered[row] : T(0)) + share; }
};

std::tuple<Tensor, Tensor> roi_align(
    const Tensor& input, const Tensor& given_rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const AxisCells cells = cells_of(spatial_scale, aligned);
  const Geometry geometry =
      geometry_of(input, {pooled_height, pooled_width}, cells, cells, sampling_ratio, !aligned);
  check_arguments(input, given_rois, geometry);
  const Tensor rois = as_contiguous(given_rois);
  auto [output, coverage] = new_output(input, rois, geometry);
  pool_level(input, rois, all_rows(rois), geometry, output, coverage);
  return {output, coverage};
}

}  // namespace

void pool_level(
    const Tensor& given_input, const Tensor& rois, Rows rows, const Geometry& geometry, Tensor& output,
    Tensor& coverage) {
  const Tensor input = readable(given_input);
  dispatch(input.scalar_type(), [&](auto scalar) {
    const Strips strips(geometry, true);
    for (int64_t strip = 0; strip < strips.count(); ++strip) {
      Pooling<decltype(scalar)> pooling(input, rois, strips.of(strip), output, coverage);
      pooling(rows);
    }
  });
}

}  // namespace roialign

STABLE_TORCH_LIBRARY_IMPL(roialign, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roialign::roi_align));
}
