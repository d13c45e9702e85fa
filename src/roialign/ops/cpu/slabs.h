// The gradient to a map, summed up by several threads: shared out so that no two of them add to one cell.
//
// Threads share out channels and, where those are few, rows of the map. Each cell gets its summands from one thread in
// the order of the RoIs: the gradient is the same for any number of threads.
#pragma once

#include <functional>

#include "operator.h"

namespace roialign {

constexpr int64_t kLeastSummed = 4;       // channels; together they read long runs of the upstream gradient
constexpr int64_t kSlabBytes = 8 << 20;   // float32 sums of a half gradient
constexpr int64_t kClearedPerValue = 4;   // cells that are set to zero in the time that one value is added
constexpr int64_t kValuesPerRoi = 64;     // that are added in the time that a RoI takes otherwise

// A part of the gradient that is summed up at once: some channels and rows of all images.
template <typename T>
struct Slab {
  int64_t first_channel, channels;
  int64_t first_row, rows;
  T* sums;
  int64_t plane_size, image_pitch;
};

// The stripes of a slab's planes [channels] x [rows] that one task takes, in all images.
template <typename T>
struct Part {
  int64_t channel, channels;  // of the map
  int64_t top, bottom;        // rows of the map
  T* sums;                    // of the first image and channel, from row `top` on
  int64_t plane_size, image_pitch;
};

// Some RoIs that add to the map: how many, and how they add to a part of it. Several threads add at once.
template <typename T>
struct Summands {
  int64_t rois;
  std::function<void(const Part<T>&)> add;
};

template <typename T>
void clear(const Part<T>& part, const Geometry& geometry) {
  for (int64_t image = 0; image < geometry.images; ++image) {
    for (int64_t channel = 0; channel < part.channels; ++channel) {
      T* rows = part.sums + image * part.image_pitch + channel * part.plane_size;
      std::fill(rows, rows + (part.bottom - part.top) * geometry.width, T(0));
    }
  }
}

template <typename T, typename SummandsOf>
void sum_slab(const Geometry& geometry, const Slab<T>& slab, int64_t passes, const SummandsOf& summands_of) {
  const int64_t threads = torch::stable::get_num_threads();
  for (int64_t pass = 0; pass < passes; ++pass) {
    const Summands<T> summands = summands_of(pass);
    const int64_t added = summands.rois * (slab.channels * geometry.pooled.cells() + kValuesPerRoi);
    const int64_t cleared = pass == 0 ? geometry.images * slab.channels * slab.plane_size : 0;
    const int64_t work = added + cleared / kClearedPerValue;
    // Each stripe goes through all RoIs: only where threads share them out.
    const int64_t wanted = work > kValuesPerThread ? 2 * threads / std::max<int64_t>(slab.channels, 1) : 1;
    const int64_t stripes = threads > 1 ? std::clamp<int64_t>(wanted, 1, slab.rows) : 1;
    const int64_t block = channels_at_once(
        slab.channels, slab.plane_size * static_cast<int64_t>(sizeof(T)), kLeastSummed, 2 * stripes);
    const int64_t blocks = (slab.channels + block - 1) / block, tasks = blocks * stripes;
    torch::stable::parallel_for(0, tasks, tasks_per_thread(tasks, work), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task / stripes * block, stripe = task % stripes;
        const int64_t top = slab.rows * stripe / stripes, bottom = slab.rows * (stripe + 1) / stripes;
        const Part<T> part{
            slab.first_channel + channel, std::min(block, slab.channels - channel), slab.first_row + top,
            slab.first_row + bottom, slab.sums + channel * slab.plane_size + top * geometry.width,
            slab.plane_size, slab.image_pitch};
        if (pass == 0) {
          clear(part, geometry);
        }
        summands.add(part);
      }
    });
  }
}

// Rounds the sums of a slab to the type of the gradient.
template <typename scalar_t, typename T>
void round_slab(const Slab<T>& slab, const Geometry& geometry, scalar_t* result) {
  const int64_t height = geometry.height, width = geometry.width;
  const int64_t planes = geometry.images * slab.channels;
  const int64_t grain = tasks_per_thread(planes, planes * slab.rows * width);
  torch::stable::parallel_for(0, planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / slab.channels, channel = plane % slab.channels;
      kernels_for<scalar_t>().narrow(
          slab.sums + image * slab.image_pitch + channel * slab.plane_size, slab.rows * width,
          result + ((image * geometry.channels + slab.first_channel + channel) * height + slab.first_row) * width);
    }
  });
}

// Writes the gradient [N, C, H, W]: the sums of all passes. summands_of(pass) gives the Summands of one.
template <typename scalar_t, typename SummandsOf>
void sum_gradient(const Geometry& geometry, Tensor& grad_input, int64_t passes, const SummandsOf& summands_of) {
  using T = compute_t<scalar_t>;
  const int64_t channels = geometry.channels, height = geometry.height, width = geometry.width;
  scalar_t* result = static_cast<scalar_t*>(grad_input.mutable_data_ptr());
  prefer_large_pages(
      result, geometry.images * channels * height * width * static_cast<int64_t>(sizeof(scalar_t)));
  if constexpr (std::is_same_v<scalar_t, T>) {
    sum_slab<T>(
        geometry, {0, channels, 0, height, result, height * width, channels * height * width}, passes, summands_of);
  } else {
    const int64_t fitting_rows = std::max<int64_t>(
        kSlabBytes / std::max<int64_t>(geometry.images * width * static_cast<int64_t>(sizeof(T)), 1), 1);
    const int64_t rows = std::min(fitting_rows, height);
    const int64_t some = std::clamp<int64_t>(fitting_rows / height, 1, std::max<int64_t>(channels, 1));
    AlignedVector<T> sums(geometry.images * some * rows * width);
    for (int64_t channel = 0; channel < channels; channel += some) {
      for (int64_t row = 0; row < height; row += rows) {
        const Slab<T> slab{
            channel, std::min(some, channels - channel), row, std::min(rows, height - row),
            sums.data(), rows * width, some * rows * width};
        sum_slab<T>(geometry, slab, passes, summands_of);
        round_slab<scalar_t>(slab, geometry, result);
      }
    }
  }
}

}  // namespace roialign
