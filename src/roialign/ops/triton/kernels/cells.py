"""Bins of whole cells along one axis, of boxes that are rounded to them: `ops/reference/whole_cells.py` for a GPU."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import divide

MAX_ROUNDED_CELL = tl.constexpr((1 << 30) + 0.5)  # beyond, torchvision cannot count the cells of a box in 32 bits


@triton.jit
def rounded(value):
    """The nearest whole number, halves away from zero."""
    whole = tl.where(value < 0.0, tl.ceil(value), tl.floor(value))
    return tl.where(tl.abs(value - whole) >= 0.5, whole + tl.where(value < 0.0, -1.0, 1.0), whole)


@triton.jit
def cell_axis(low, high, scale, POOLED: tl.constexpr, WITH_END: tl.constexpr):
    """The first cell of boxes, the length of a bin, how many cells there are, and whether they can be counted.

    WITH_END gives a box the cell that it ends in.
    """
    start, end = low * scale, high * scale
    usable = tl.abs(start).to(tl.float64) < MAX_ROUNDED_CELL
    usable = usable & (tl.abs(end).to(tl.float64) < MAX_ROUNDED_CELL)
    first = rounded(tl.where(usable, start, 0.0)).to(tl.int64)
    count = rounded(tl.where(usable, end, 0.0)).to(tl.int64) - first
    if WITH_END:
        count = count + 1
    count = tl.where(count > 1, count, 1)
    pooled = tl.full([], POOLED, tl.float32).to(start.dtype)
    return first, divide(count.to(start.dtype), pooled), count, usable


@triton.jit
def cells_of_bin(first, bin_size, bins, extent):
    """The first cell on the map of bins and the one past their last, which may be the same.

    The order of the operations is torchvision's: the ends of bins are rounded as well.
    """
    begin = tl.floor(bins.to(bin_size.dtype) * bin_size).to(tl.int64) + first
    end = tl.ceil((bins + 1).to(bin_size.dtype) * bin_size).to(tl.int64) + first
    begin = tl.where(begin < 0, 0, tl.where(begin > extent, extent, begin))
    end = tl.where(end < 0, 0, tl.where(end > extent, extent, end))
    return begin.to(tl.int32), end.to(tl.int32)


@triton.jit
def share_of_cells(first, bin_size, count, extent):
    """Share of the boxes' cells that are on the map, along the axis."""
    end = tl.where(first + count > extent, extent, first + count)
    inside = end - tl.where(first < 0, 0, first)
    return divide(tl.where(inside > 0, inside, 0).to(bin_size.dtype), count.to(bin_size.dtype))
