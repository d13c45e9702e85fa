"""The kernels of `roi_pool`: the largest cell of each bin, and the gradient that goes to it.

Largest cells are numbered row * width + column; -1 is none.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.boxes import block_of_program, image_of_box
from roialign.ops.triton.kernels.pool_taps import channels_read
from roialign.ops.triton.kernels.rows import load_features, load_rows, load_upstream
from roialign.ops.triton.kernels.scatter_taps import store_tile
from roialign.ops.triton.kernels.spans import store_span
from roialign.ops.triton.kernels.taps import axis_of_box, coverage_along, steps_of_bins, tap
from roialign.ops.triton.kernels.tiles import TILE, tiles_along

LOWEST = tl.constexpr(-3.4028234663852886e38)  # float32's most negative number


@triton.jit(do_not_specialize=["images", "height", "width"])
def largest_kernel(
    output,
    coverage,
    maxima,
    rois,
    scales,
    features,
    strides,
    images,
    channels,
    height,
    width,
    PH: tl.constexpr,
    PW: tl.constexpr,
    LEGACY: tl.constexpr,
    WITH_MAXIMA: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """A program takes one box, a block of its bins and one of channels. The rule: `ops/reference/whole_cells.py`."""
    k, channel_block, bin_block = block_of_program(channels, PH * PW, BLOCK_C, BLOCK_BINS)
    image, image_exists = image_of_box(rois, k, images)
    y_axis, y_usable = axis_of_box(rois, k, scales, 1, 2, PH, 0, True, "cells")
    x_axis, x_usable = axis_of_box(rois, k, scales, 0, 2, PW, 0, True, "cells")
    usable = image_exists & y_usable & x_usable

    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = bins // PW, bins % PW
    written = (c < channels)[:, None] & (bins < PH * PW)[None, :]
    mask = written & (bins < tl.where(usable, PH * PW, 0))[None, :]
    values = features + image * strides[0] + channels_read(c, bins, strides[1], PH * PW, False, INDEX)

    kind = y_axis[1].dtype
    lowest = tl.full([], LOWEST, tl.float64).to(kind)
    best = tl.full([BLOCK_C, BLOCK_BINS], float("-inf"), kind)
    largest = tl.full([BLOCK_C, BLOCK_BINS], -1, INDEX)
    any_read = tl.zeros([BLOCK_BINS], tl.int32)
    y_first, y_steps = steps_of_bins(y_axis, p, height, 0, "cells")
    x_first, x_steps = steps_of_bins(x_axis, q, width, 0, "cells")
    for iy in range(y_steps):
        y, _, y_read = tap(y_axis, p, y_first, iy, height, 0, "cells")
        for ix in range(x_steps):
            x, _, x_read = tap(x_axis, q, x_first, ix, width, 0, "cells")
            any_read = any_read | (y_read & x_read).to(tl.int32)
            read = mask & (y_read & x_read)[None, :]
            at = (y.to(INDEX) * strides[2] + x.to(INDEX) * strides[3])[None, :]
            value = load_features(values + at, read, CHANNELS_LAST).to(kind)
            if LEGACY:
                larger = read & (value > lowest) & ((value > best) | (largest < 0))
            else:
                larger = read & ((value > best) | (largest < 0) | ((value != value) & (best == best)))
            best = tl.where(larger, value, best)
            cell = (y.to(INDEX) * width + x)[None, :]
            largest = tl.where(larger, tl.broadcast_to(cell, largest.shape), largest)

    nothing = tl.where(any_read > 0, lowest, 0.0)[None, :]
    pooled = tl.where(largest >= 0, best, tl.broadcast_to(nothing, best.shape))
    pooled = tl.where(usable, pooled, float("nan"))
    at = k * channels * (PH * PW) + c[:, None] * (PH * PW) + bins[None, :]
    tl.store(output + at, pooled.to(output.dtype.element_ty), mask=written)
    if WITH_MAXIMA:
        tl.store(maxima + at, largest.to(tl.int32), mask=written)
    if (channel_block == 0) & (bin_block == 0):
        covered = coverage_along(y_axis, height, PH, 0, "cells", 1)
        covered *= coverage_along(x_axis, width, PW, 0, "cells", 1)
        tl.store(coverage + k, covered + tl.where(usable, 0.0, float("nan")))


@triton.jit(do_not_specialize=["boxes", "images", "values", "height", "width"])
def span_maxima_kernel(spans, rois, maxima, boxes, images, values, height, width, BLOCK: tl.constexpr):
    """As `span_taps_kernel`, of the largest cells of each box, which are so many `values`."""
    k = tl.program_id(0).to(tl.int64)
    image, exists = image_of_box(rois, k, images)
    top, left = tl.full([BLOCK], 1 << 30, tl.int32), tl.full([BLOCK], 1 << 30, tl.int32)
    bottom, right = tl.full([BLOCK], -1, tl.int32), tl.full([BLOCK], -1, tl.int32)
    for begin in range(0, values, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        cell = tl.load(maxima + k * values + i, mask=i < values, other=-1)
        found = (cell >= 0) & (cell // width < height)
        y, x = cell // width, cell % width
        top, left = tl.where(found, tl.minimum(top, y), top), tl.where(found, tl.minimum(left, x), left)
        bottom, right = tl.where(found, tl.maximum(bottom, y), bottom), tl.where(found, tl.maximum(right, x), right)
    bottom = tl.max(bottom, 0)
    plane = image.to(tl.int32)
    store_span(
        *(spans, boxes, k, None, exists & (bottom >= 0), plane, plane),
        *(tl.min(top, 0), bottom, tl.min(left, 0), tl.max(right, 0)),
    )


@triton.jit(do_not_specialize=["boxes", "images", "channels", "height", "width", "room"])
def scatter_maxima_kernel(
    grad_features,
    grad,
    grad_strides,
    rois,
    maxima,
    listed,
    counts,
    boxes,
    images,
    channels,
    height,
    width,
    room,
    PH: tl.constexpr,
    PW: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """A program owns a tile and some channels, goes through its boxes in their order, and stores once."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    slot = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    tiles_x = tiles_along(width)
    tiles = tiles_along(height) * tiles_x
    image, tile = slot // tiles, slot % tiles
    y_begin, x_begin = tile // tiles_x * TILE, tile % tiles_x * TILE
    place = tl.arange(0, TILE * TILE)
    # off the map these are numbers of other cells, and not stored
    cell = (y_begin + place // TILE) * width + x_begin + place % TILE

    count = tl.load(counts + slot)
    fits = count <= room
    at_list = listed + slot.to(tl.int64) * room
    total = tl.zeros([BLOCK_C, TILE * TILE], rois.dtype.element_ty)
    for number in range(tl.where(fits, count, boxes)):
        k = tl.where(fits, tl.load(at_list + number, mask=fits, other=0), number).to(tl.int64)
        box_image, usable = image_of_box(rois, k, images)
        for first in range(0, tl.where(usable & (box_image == image), PH * PW, 0), BLOCK_BINS):
            bins = first + tl.arange(0, BLOCK_BINS)
            mask = (c < channels)[:, None] & (bins < PH * PW)[None, :]
            at = (k * channels + c[:, None]) * (PH * PW) + bins[None, :]
            largest = load_rows(tl.broadcast_to(maxima + at, mask.shape), mask)
            largest = tl.where(mask, largest, -1)
            upstream = load_upstream(grad, grad_strides, k, bins // PW, bins % PW, bins < PH * PW, c, channels)
            upstream = upstream.to(total.dtype)
            here = largest[:, :, None] == cell[None, None, :]
            total += tl.sum(tl.where(here, tl.broadcast_to(upstream[:, :, None], here.shape), 0.0), 1)

    total = tl.reshape(total, [BLOCK_C, TILE, TILE])
    store_tile(grad_features, total, image, 0, y_begin, x_begin, c, channels, 1, height, width, INDEX)
