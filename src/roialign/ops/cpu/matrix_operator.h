// Forward and backward of operators whose RoIs have a matrix [bins, cells] each.
//
// A Maker, one for each operator, knows the RoIs: count(), image(row), top(row), taps_per_bin(row),
// samples(row), and make(matrix, builder), which walks the samples of the matrix's piece.
#pragma once

#include <numeric>

#include "matrix.h"
#include "levels.h"

namespace roialign {

// Forward and the gradient to the matrices make a matrix, use it for all channels and forget it.
template <typename scalar_t, typename Maker>
void pool_by_matrix(
    const Tensor& input, const Geometry& geometry, const Maker& maker, Tensor& output, Tensor& coverage) {
  using T = compute_t<scalar_t>;
  const std::vector<Piece> pieces = cut_pieces(maker, geometry);
  std::vector<double> on_map(pieces.size());
  const scalar_t* features = values_of<scalar_t>(input);
  scalar_t* pooled = static_cast<scalar_t*>(output.mutable_data_ptr());
  const int64_t channels = geometry.channels, cells = geometry.pooled.cells(), lanes = vector_lanes<T>();
  const int64_t count = static_cast<int64_t>(pieces.size());
  const int64_t grain = tasks_per_thread(count, maker.count() * channels * cells);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    MatrixBuilder<T> builder(geometry, {input.stride(2), input.stride(3)});
    OwnedMatrix<T> matrix;
    Scratch<T> scratch;
    for (int64_t task = begin; task < end; ++task) {
      matrix.piece = pieces[task];
      maker.make(matrix, builder);
      builder.finish(false);
      on_map[task] = matrix.samples_on_map;
      const MatrixPlan<T> plan = matrix.plan();
      kernels_for<scalar_t>().pool_matrix(
          plan,
          {features + plan.image * input.stride(0), input.stride(1), channels,
           scratch.room((plan.bins.rows + std::max(plan.cells_read, kCellsAtOnce)) * lanes),
           pooled + pieces[task].row * channels * cells + pieces[task].first_bin, cells});
    }
  });
  std::vector<double> sums(maker.count(), 0.0);
  for (int64_t task = 0; task < count; ++task) {
    sums[pieces[task].row] += on_map[task];
  }
  T* covered = coverage.mutable_data_ptr<T>();
  for (int64_t row = 0; row < maker.count(); ++row) {
    covered[row] = static_cast<T>(sums[row] / std::max(maker.samples(row), 1.0));
  }
}

// Where the bins of an upstream gradient are in memory, in elements.
inline std::vector<int64_t> bins_of(const Tensor& grad, PooledSize pooled) {
  std::vector<int64_t> bins;
  bins.reserve(pooled.cells());
  for (int64_t p = 0; p < pooled.height; ++p) {
    for (int64_t q = 0; q < pooled.width; ++q) {
      bins.push_back(p * grad.stride(2) + q * grad.stride(3));
    }
  }
  return bins;
}

// Transposed matrices, made once for all channels, in passes that bound their memory.
template <typename T, typename Maker>
class MatrixPasses {
 public:
  MatrixPasses(const Maker& maker, const Geometry& geometry)
      : maker(maker), geometry(geometry), pieces(cut_pieces(maker, geometry)), bounds{0} {
    double bytes = 0;
    for (size_t place = 0; place < pieces.size(); ++place) {
      const double taps = maker.taps_per_bin(pieces[place].row) * static_cast<double>(pieces[place].bins);
      const double more = taps * kBytesPerTap + static_cast<double>(sizeof(OwnedMatrix<T>));
      if (bytes > 0 && bytes + more > kBytesPerPass) {
        bounds.push_back(static_cast<int64_t>(place));
        bytes = 0;
      }
      bytes += more;
    }
    bounds.push_back(static_cast<int64_t>(pieces.size()));
  }

  int64_t count() const { return static_cast<int64_t>(bounds.size()) - 1; }
  int64_t size(int64_t pass) const { return bounds[pass + 1] - bounds[pass]; }

  const std::vector<OwnedMatrix<T>>& matrices(int64_t pass) {
    if (held != pass) {
      held = pass;
      owned.resize(size(pass));
      torch::stable::parallel_for(0, size(pass), kPiecesPerThread, [&](int64_t begin, int64_t end) {
        MatrixBuilder<T> builder(geometry, {geometry.width, 1});
        for (int64_t k = begin; k < end; ++k) {
          owned[k].piece = pieces[bounds[pass] + k];
          maker.make(owned[k], builder);
          builder.finish(true);
        }
      });
    }
    return owned;
  }

 private:
  static constexpr double kBytesPerPass = 6 << 20;
  static constexpr double kBytesPerTap = 2 * (sizeof(int64_t) + sizeof(T)) + 3 * sizeof(int64_t) / 2;
  static constexpr int64_t kPiecesPerThread = 64;

  const Maker& maker;
  const Geometry& geometry;
  std::vector<Piece> pieces;
  std::vector<int64_t> bounds;
  std::vector<OwnedMatrix<T>> owned;
  int64_t held = -1;
};

// Adds up the gradient [N, channels, H, W] of some channels, from `first` on. Threads share out channels:
// each cell gets its summands from one thread in the order of the pieces, whatever the number of threads.
template <typename scalar_t, typename Maker>
void scatter_channels(
    const Tensor& grad, const Geometry& geometry, MatrixPasses<compute_t<scalar_t>, Maker>& passes,
    const std::vector<int64_t>& bins, int64_t first, int64_t channels, compute_t<scalar_t>* sums) {
  using T = compute_t<scalar_t>;
  const int64_t plane_size = geometry.height * geometry.width, lanes = vector_lanes<T>();
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t block = std::clamp<int64_t>((channels + threads - 1) / threads, 1, lanes);
  const int64_t tasks = (channels + block - 1) / block;
  std::fill(sums, sums + geometry.images * channels * plane_size, T(0));
  for (int64_t pass = 0; pass < passes.count(); ++pass) {
    const auto& matrices = passes.matrices(pass);
    const int64_t size = passes.size(pass);
    const int64_t grain = tasks_per_thread(tasks, size * channels * geometry.pooled.cells());
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task * block;
        for (int64_t k = 0; k < size; ++k) {
          const MatrixPlan<T> plan = matrices[k].plan();
          const Piece& piece = matrices[k].piece;
          kernels_for<scalar_t>().scatter_matrix(
              plan,
              {values_of<scalar_t>(grad) + piece.row * grad.stride(0) + (first + channel) * grad.stride(1),
               grad.stride(1), bins.data() + piece.first_bin, std::min(block, channels - channel),
               scratch.room((plan.bins.rows + kCellsAtOnce) * lanes),
               sums + (plan.image * channels + channel) * plane_size, plane_size});
        }
      }
    });
  }
}

constexpr int64_t kHalfSumsBytes = 8 << 20;  // float32 sums of a half gradient

template <typename scalar_t, typename Maker>
void scatter_by_matrix(const Tensor& grad, const Geometry& geometry, const Maker& maker, Tensor& grad_input) {
  using T = compute_t<scalar_t>;
  const int64_t channels = geometry.channels, plane_size = geometry.height * geometry.width;
  const std::vector<int64_t> bins = bins_of(grad, geometry.pooled);
  MatrixPasses<T, Maker> passes(maker, geometry);
  scalar_t* result = static_cast<scalar_t*>(grad_input.mutable_data_ptr());
  prefer_large_pages(result, grad_input.numel() * grad_input.element_size());
  if constexpr (std::is_same_v<scalar_t, T>) {
    scatter_channels<scalar_t>(grad, geometry, passes, bins, 0, channels, result);
  } else {
    const int64_t plane_bytes = geometry.images * plane_size * static_cast<int64_t>(sizeof(T));
    const int64_t some = std::clamp<int64_t>(
        kHalfSumsBytes / std::max<int64_t>(plane_bytes, 1), 1, std::max<int64_t>(channels, 1));
    AlignedVector<T> sums(geometry.images * some * plane_size);
    for (int64_t first = 0; first < channels; first += some) {
      const int64_t now = std::min(some, channels - first);
      scatter_channels<scalar_t>(grad, geometry, passes, bins, first, now, sums.data());
      for (int64_t image = 0; image < geometry.images; ++image) {
        kernels_for<scalar_t>().narrow(
            sums.data() + image * now * plane_size, now * plane_size,
            result + (image * channels + first) * plane_size);
      }
    }
  }
}

// Calls body(matrix, of_taps, builder) with the gradient to each tap's weight, for all pieces; those of one
// RoI come one after the other, from one thread.
template <typename scalar_t, typename Maker, typename Body>
void correlate_by_matrix(
    const Tensor& grad, const Tensor& input, const Geometry& geometry, const Maker& maker, const Body& body) {
  using T = compute_t<scalar_t>;
  const std::vector<Piece> pieces = cut_pieces(maker, geometry);
  std::vector<int64_t> firsts;  // pieces that begin a RoI
  for (size_t place = 0; place < pieces.size(); ++place) {
    if (pieces[place].first_bin == 0) {
      firsts.push_back(static_cast<int64_t>(place));
    }
  }
  firsts.push_back(static_cast<int64_t>(pieces.size()));
  const std::vector<int64_t> bins = bins_of(grad, geometry.pooled);
  const int64_t rows = maker.count(), lanes = vector_lanes<T>();
  const int64_t grain = tasks_per_thread(rows, rows * geometry.channels * geometry.pooled.cells());
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    MatrixBuilder<T> builder(geometry, {input.stride(2), input.stride(3)});
    OwnedMatrix<T> matrix;
    Scratch<T> scratch;
    std::vector<double> of_taps;
    for (int64_t task = firsts[begin]; task < firsts[end]; ++task) {
      matrix.piece = pieces[task];
      maker.make(matrix, builder);
      builder.finish(false);
      const MatrixPlan<T> plan = matrix.plan();
      of_taps.assign(matrix.index.size(), 0.0);
      kernels_for<scalar_t>().correlate_matrix(
          plan,
          {values_of<scalar_t>(input) + plan.image * input.stride(0), input.stride(1),
           values_of<scalar_t>(grad) + matrix.piece.row * grad.stride(0), grad.stride(1),
           bins.data() + matrix.piece.first_bin, geometry.channels,
           scratch.room((plan.bins.rows + std::max(plan.cells_read, kCellsAtOnce)) * lanes), of_taps.data()});
      body(matrix, of_taps, builder);
    }
  });
}

inline void check_grad_of(const Tensor& grad, const Tensor& input, const Geometry& geometry) {
  if (grad.size(1) != geometry.channels || grad.scalar_type() != input.scalar_type() || !grad.is_cpu()) {
    fail("RA505: expected a gradient of the type and with the channels of the features");
  }
}

}  // namespace roialign
