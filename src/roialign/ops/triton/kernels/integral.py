"""Bins that are means of the surface between the cells, along one axis: `ops/reference/separable.py` for a GPU.

Edges of bins are computed in float64, as the reference has them. The surface falls to zero within a cell beyond the
border. Between two cells it is straight, so that its integral there is the length times the value in the middle.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide


@triton.jit
def integral_axis(low, high, scale, POOLED: tl.constexpr):
    """Where boxes begin, the length of a bin, both in cells, and whether they can be integrated over."""
    start, end = low * scale, high * scale
    pooled = tl.full([], POOLED, tl.float32).to(start.dtype)
    length = divide(tl.where(end > start, end - start, 0.0), pooled)
    infinity = float("inf")
    usable = (tl.abs(start) < infinity) & (tl.abs(end) < infinity) & (length < infinity)
    return tl.where(usable, start, 0.0), tl.where(usable, length, 0.0), usable


@triton.jit
def edge(start, length, bins):
    """Where bins begin, or where the bins before them end, in float64."""
    return start.to(tl.float64) + bins.to(tl.float64) * length.to(tl.float64)


@triton.jit
def on_map(place, extent):
    """The nearest place where the surface is not zero, or its end."""
    return tl.minimum(tl.maximum(place, -1.0), extent.to(tl.float64))


@triton.jit
def cells_under(begin, end):
    """The first cell that is read between two places of the map, and how many are."""
    first = tl.floor(begin).to(tl.int32)
    return first, tl.where(end > begin, tl.ceil(end).to(tl.int32) - first + 1, 0)


@triton.jit
def weight_at(place, cell, extent):
    """The weight of cells in the surface at a place: bilinear on a map with a ring of zeros around it."""
    _, low, high, fraction, _ = bilinear(place + 1.0, extent + 2)
    return tl.where(cell == low - 1, 1.0 - fraction, tl.where(cell == high - 1, fraction, 0.0))


@triton.jit
def integral_weight(start, length, bins, cell, extent):
    """The integral of the cells' weights over bins, in float64, and whether the bins read them."""
    begin, end = on_map(edge(start, length, bins), extent), on_map(edge(start, length, bins + 1), extent)
    total = begin * 0.0
    read = begin > end
    for side in tl.static_range(2):
        low, high = tl.maximum(begin, cell - 1.0 + side), tl.minimum(end, cell + 0.0 + side)
        inside = high > low
        piece = (high - low) * weight_at(low + (high - low) / 2, cell, extent)
        total += tl.where(inside, piece, 0.0)
        read = read | inside
    return total, read & (cell >= 0) & (cell < extent)


@triton.jit
def covered_share(start, length, extent, POOLED: tl.constexpr):
    """Share of boxes that is on the map, along the axis."""
    begin = start.to(tl.float64)
    end = begin + length.to(tl.float64) * POOLED
    size = end - begin
    inside = on_map(end, extent) - on_map(begin, extent)
    return (inside / tl.where(size > 0.0, size, 1.0)).to(start.dtype)
