"""The sampling rule along one axis, which every kernel uses: `ops/reference/sampling.py` for a GPU.

Kernels are compiled without fused multiply-add, so that positions are rounded as in the reference; sums ask for it.
"""

import triton
import triton.language as tl

MAX_ADAPTIVE_GRID = tl.constexpr(1 << 24)  # more samples than this cannot be counted in float32
SLACK = tl.constexpr(4)  # samples by which the estimate of a run may be off where coordinates are coarsely rounded


@triton.jit
def divide(numerator, denominator):
    """The quotient, rounded to nearest also in float32."""
    if numerator.dtype == tl.float64:
        quotient = numerator / denominator
    else:
        quotient = tl.div_rn(numerator, denominator)
    return quotient


@triton.jit
def from_bits(bits, like):
    """The float64 that was passed as an integer, in the type of `like`: kernels take float32 scalars only."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(like.dtype)


@triton.jit
def axis_samples(low, high, scale, shift, POOLED: tl.constexpr, RATIO: tl.constexpr, WIDEN: tl.constexpr):
    """Where boxes begin, the length of a bin, samples in each bin, and whether they can be sampled."""
    start = low * scale - shift
    end = high * scale - shift
    size = end - start
    if WIDEN:
        size = tl.where(size < 1.0, 1.0, size)  # NaN stays
    pooled = tl.full([], POOLED, tl.float32).to(start.dtype)
    bin_size = divide(size, pooled)
    if RATIO > 0:
        grid = bin_size * 0.0 + RATIO
    else:
        grid = tl.ceil(bin_size)
    infinity = float("inf")
    usable = (tl.abs(start) < infinity) & (tl.abs(end) < infinity) & (tl.abs(bin_size) < infinity)
    usable = usable & (tl.abs(grid) <= MAX_ADAPTIVE_GRID)
    # what cannot be sampled gets numbers that nothing can go wrong with
    start, bin_size = tl.where(usable, start, 0.0), tl.where(usable, bin_size, 0.0)
    grid = tl.where(usable, tl.maximum(grid, 0.0), 0.0)
    return start, bin_size, grid, usable


@triton.jit
def position(start, bin_size, grid, bin_index, sample, RATIO: tl.constexpr):
    """Where a sample lies. The order of operations is torchvision's, for its rounding decides what is on the map."""
    along = (sample.to(start.dtype) + 0.5) * bin_size
    if RATIO == 1 or RATIO == 2 or RATIO == 4:
        along = along * (1.0 / RATIO)  # exact, and no division
    else:
        along = divide(along, tl.maximum(grid, 1.0))
    return start + bin_index.to(start.dtype) * bin_size + along


@triton.jit
def bilinear(place, extent):
    """Whether samples are on the map, the two cells they read, the weight of the second, and whether it can move."""
    on_map = (place >= -1.0) & (place <= extent)
    inside = tl.maximum(tl.where(on_map, place, 0.0), 0.0)
    low = tl.minimum(inside.to(tl.int32), extent - 1)
    between = low < extent - 1
    high = tl.where(between, low + 1, low)
    fraction = tl.where(between, inside - low, 0.0)
    return on_map, low, high, fraction, on_map & between & (place > 0.0)


@triton.jit
def run_between(start, bin_size, grid, bin_index, lowest, highest, RATIO: tl.constexpr):
    """The first of the samples of each bin that may lie from `lowest` to `highest`, and how many to look at.

    An estimate from the outside. Adaptive sampling takes at least one sample for a cell, so that a box of millions of
    cells costs no more than its samples near the map.
    """
    if RATIO > 0:
        first, count = bin_index * 0, RATIO
    else:
        step = tl.maximum(bin_size / tl.maximum(grid, 1.0), 1e-30)
        begin = start + bin_index.to(start.dtype) * bin_size
        most = grid + 0.0 * begin
        first = tl.minimum(tl.maximum(tl.floor((lowest - begin) / step) - SLACK, 0.0), most).to(tl.int32)
        last = tl.minimum(tl.maximum(tl.ceil((highest - begin) / step) + SLACK, 0.0), most).to(tl.int32)
        count = tl.max(last - first, 0)
    return first, count


@triton.jit
def count_on_map(start, bin_size, grid, extent, POOLED: tl.constexpr, RATIO: tl.constexpr, BLOCK: tl.constexpr):
    """Samples of all bins that are on the map. Positions are monotone, so that bisection finds where each run ends."""
    bins = tl.arange(0, BLOCK)
    ascending = bin_size >= 0.0
    ends = tl.zeros([BLOCK], tl.int32)
    for past in tl.static_range(2):
        low = tl.zeros([BLOCK], tl.int32)
        high = low + grid.to(tl.int32)
        for _ in range(25):
            middle = (low + high) // 2
            place = position(start, bin_size, grid, bins, middle, RATIO)
            if past == 0:
                found = tl.where(ascending, (place >= -1.0).to(tl.int32), (place <= extent).to(tl.int32)) > 0
            else:
                found = tl.where(ascending, (place > extent).to(tl.int32), (place < -1.0).to(tl.int32)) > 0
            searching = low < high
            high = tl.where(searching & found, middle, high)
            low = tl.where(searching & (found == 0), middle + 1, low)
        ends = low - ends  # of the second round: where runs end, less where they begin
    return tl.sum(tl.where(bins < POOLED, ends, 0).to(start.dtype), 0)


@triton.jit
def share_on_map(start, bin_size, grid, extent, POOLED: tl.constexpr, RATIO: tl.constexpr, BLOCK: tl.constexpr):
    """Share of the samples along the axis that are on the map."""
    nought = tl.full([], 0, tl.int32)
    first = position(start, bin_size, grid, nought, nought, RATIO)
    last = position(start, bin_size, grid, nought + (POOLED - 1), tl.maximum(grid - 1.0, 0.0), RATIO)
    share = tl.where(grid > 0.0, 1.0, 0.0).to(start.dtype)
    if (tl.minimum(first, last) < -1.0) | (tl.maximum(first, last) > extent):
        on_map = count_on_map(start, bin_size, grid, extent, POOLED, RATIO, BLOCK)
        share = divide(on_map, tl.maximum(grid * POOLED, 1.0))
    return share
