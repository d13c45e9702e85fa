"""What bins read along one axis: taps, which are cells with weights.

TAKE says what a bin is made of: the mean of "samples" (axis.py), an "integral" (integral.py) or whole "cells"
(cells.py). "plane" is the axis that maps have not: one bin, one cell. A box's axis is three numbers: where it begins,
the length of a bin, and how many samples a bin or how many cells the box has. A weight is yet to be divided by the
bin's `divisor`.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import axis_samples, bilinear, from_bits, position, run_between, share_on_map
from roialign.ops.triton.kernels.backward import bins_at_tile, weights_along
from roialign.ops.triton.kernels.backward_boxes import share_along
from roialign.ops.triton.kernels.cells import cell_axis, cells_of_bin, share_of_cells
from roialign.ops.triton.kernels.integral import (
    cells_under,
    covered_share,
    edge,
    integral_axis,
    integral_weight,
    on_map,
    weight_at,
)
from roialign.ops.triton.kernels.tiles import cells_read


@triton.jit
def axis_of_box(
    rois,
    k,
    scales,
    AXIS: tl.constexpr,
    AXES: tl.constexpr,
    POOLED: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    TAKE: tl.constexpr,
):
    """The axis of box k, AXIS being 0 for x, and whether its numbers can be used.

    WIDEN boxes: of samples to one cell at least, of whole cells by the one that they end in.
    """
    at = rois + k * (1 + 2 * AXES)
    if TAKE == "plane":
        nothing = tl.load(at)
        axis, usable = (nothing, nothing, nothing), k >= 0
    else:
        low, high = tl.load(at + (1 + AXIS)), tl.load(at + (1 + AXES + AXIS))
        scale, shift = from_bits(scales[2 * AXIS], low), from_bits(scales[2 * AXIS + 1], low)
        if TAKE == "samples":
            start, bin_size, grid, usable = axis_samples(low, high, scale, shift, POOLED, RATIO, WIDEN)
            axis = (start, bin_size, grid)
        elif TAKE == "integral":
            start, bin_size, usable = integral_axis(low, high, scale, POOLED)
            axis = (start, bin_size, bin_size)
        else:
            first, bin_size, count, usable = cell_axis(low, high, scale, POOLED, WIDEN)
            axis = (first, bin_size, count)
    return axis, usable


@triton.jit
def cells_of_box(axis, extent, POOLED: tl.constexpr, RATIO: tl.constexpr, TAKE: tl.constexpr):
    """The first and the last cell that a box may read; the last is before the first where it reads none."""
    if TAKE == "samples":
        first, last = cells_read(axis[0], axis[1], axis[2], extent, POOLED, RATIO)
    elif TAKE == "integral":
        begin = axis[0].to(tl.float64)
        end = on_map(begin + axis[1].to(tl.float64) * POOLED, extent)
        first, count = cells_under(on_map(begin, extent), end)
        last = tl.minimum(first + count, extent) - 1
        first = tl.maximum(first, 0)
    else:
        nought = (axis[1] * 0.0).to(tl.int32)
        first, _ = cells_of_bin(axis[0], axis[1], nought, extent)
        _, end = cells_of_bin(axis[0], axis[1], nought + (POOLED - 1), extent)
        last = end - 1
    return first, last


@triton.jit
def steps_of_bins(axis, bins, extent, RATIO: tl.constexpr, TAKE: tl.constexpr):
    """From where a bin's taps are counted, and how many to look at for all bins."""
    if TAKE == "samples":
        first, count = run_between(axis[0], axis[1], axis[2], bins, -1.0, extent, RATIO)
        steps = 2 * count
    elif TAKE == "integral":
        begin, end = edge(axis[0], axis[1], bins), edge(axis[0], axis[1], bins + 1)
        first, count = cells_under(on_map(begin, extent), on_map(end, extent))
        steps = tl.max(count, 0)
    elif TAKE == "cells":
        first, end = cells_of_bin(axis[0], axis[1], bins, extent)
        steps = tl.max(end - first, 0)
    else:
        first, steps = bins * 0, 1
    return first, steps


@triton.jit
def tap(axis, bins, first, step, extent, RATIO: tl.constexpr, TAKE: tl.constexpr):
    """The cells of the bins' taps of this number, their weights, and whether they are read."""
    cell = first + step
    if TAKE == "samples":
        sample = first + step // 2
        place = position(axis[0], axis[1], axis[2], bins, sample, RATIO)
        on_the_map, low, high, fraction, _ = bilinear(place, extent)
        cell = tl.where(step % 2 == 0, low, high)
        weight = tl.where(step % 2 == 0, 1.0 - fraction, fraction)
        read = on_the_map & (sample < axis[2]) & (high - low >= step % 2)
    elif TAKE == "integral":
        weight, read = integral_weight(axis[0], axis[1], bins, cell, extent)
        weight = weight.to(axis[0].dtype)
    elif TAKE == "cells":
        _, end = cells_of_bin(axis[0], axis[1], bins, extent)
        weight, read = cell * 0.0 + 1.0, cell < end
    else:
        weight, read = cell * 0.0 + 1.0, cell < 1
    return cell, weight, read


@triton.jit
def slopes_of_tap(axis, bins, first, step, extent, POOLED: tl.constexpr, RATIO: tl.constexpr, TAKE: tl.constexpr):
    """How the weight of a tap changes with where its box begins and with the box's size, and whether it can."""
    if TAKE == "samples":
        sample = first + step // 2
        place = position(axis[0], axis[1], axis[2], bins, sample, RATIO)
        _, _, _, _, moves = bilinear(place, extent)
        by_start = tl.where(step % 2 == 0, -1.0, 1.0) + axis[0] * 0.0 + 0.0 * bins
        by_size = by_start * share_along(bins, sample, axis[2], POOLED)
    else:
        begin, end = edge(axis[0], axis[1], bins), edge(axis[0], axis[1], bins + 1)
        weight, moves = integral_weight(axis[0], axis[1], bins, first + step, extent)
        mean = weight / tl.where(end > begin, end - begin, 1.0)
        by_begin = mean - weight_at(begin, first + step, extent)
        by_end = weight_at(end, first + step, extent) - mean
        by_start = (by_begin + by_end).to(axis[0].dtype)
        by_size = ((by_begin * bins + by_end * (bins + 1)) / POOLED).to(axis[0].dtype)
    return by_start, by_size, moves


@triton.jit
def divisor(axis, bins, extent, TAKE: tl.constexpr):
    """What the weights of bins are divided by."""
    kind = axis[1].dtype
    if TAKE == "samples":
        found = tl.maximum(axis[2], 1.0) + 0.0 * bins
    elif TAKE == "integral":
        size = edge(axis[0], axis[1], bins + 1) - edge(axis[0], axis[1], bins)
        found = tl.where(size > 0.0, size, 1.0)
    elif TAKE == "cells":
        begin, end = cells_of_bin(axis[0], axis[1], bins, extent)
        found = tl.maximum(end - begin, 1)
    else:
        found = bins * 0 + 1
    return found.to(kind)


@triton.jit
def coverage_along(axis, extent, POOLED: tl.constexpr, RATIO: tl.constexpr, TAKE: tl.constexpr, BLOCK: tl.constexpr):
    """Share of the axis that is on the map."""
    if TAKE == "samples":
        share = share_on_map(axis[0], axis[1], axis[2], extent, POOLED, RATIO, BLOCK)
    elif TAKE == "integral":
        share = covered_share(axis[0], axis[1], extent, POOLED)
    elif TAKE == "cells":
        share = share_of_cells(axis[0], axis[1], axis[2], extent)
    else:
        share = tl.full([], 1.0, axis[1].dtype)
    return share


@triton.jit
def bins_at(axis, tile_begin, POOLED: tl.constexpr, TAKE: tl.constexpr, SIDE: tl.constexpr):
    """The first bin that may read cells of a tile along an axis, and how many may."""
    if TAKE == "plane":
        first, count = tile_begin * 0, tile_begin * 0 + 1
    else:
        first, count = bins_at_tile(axis[0].to(axis[1].dtype), axis[1], tile_begin, POOLED, SIDE)
    return first, count


@triton.jit
def weights_at(axis, tile_begin, bins, extent, RATIO: tl.constexpr, TAKE: tl.constexpr, SIDE: tl.constexpr):
    """The weight [bins, SIDE] of each cell of a tile in each bin, divided, and whether the bin reads it, as numbers."""
    cell = (tile_begin + tl.arange(0, SIDE))[None, :]
    if TAKE == "samples":
        weight, read = weights_along(tile_begin, axis[0], axis[1], axis[2], bins, extent, RATIO, SIDE)
    elif TAKE == "integral":
        weight, read = integral_weight(axis[0], axis[1], bins[:, None], cell, extent)
    elif TAKE == "cells":
        begin, end = cells_of_bin(axis[0], axis[1], bins, extent)
        read = (cell >= begin[:, None]) & (cell < end[:, None])
        weight = read.to(axis[1].dtype)
    else:
        read = cell + bins[:, None] * 0 >= 0
        weight = read.to(axis[1].dtype)
    divided = weight.to(axis[1].dtype) / divisor(axis, bins, extent, TAKE)[:, None]
    return divided, read.to(tl.int32)
