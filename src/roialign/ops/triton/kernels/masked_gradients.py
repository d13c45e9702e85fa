"""The kernels of the gradients of `masked_roi_align` to boxes and masks."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, from_bits, run_between
from roialign.ops.triton.kernels.backward import bins_at_tile, over_tile, weights_along, weights_at_tile
from roialign.ops.triton.kernels.backward_boxes import share_along
from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.corners import across, load_corners, slopes, surface
from roialign.ops.triton.kernels.masked import box_of, load_pixels, place_of, shares_of
from roialign.ops.triton.kernels.rows import load_upstream
from roialign.ops.triton.kernels.tiles import TILE, tiles_along


@triton.jit(do_not_specialize=["images"])
def correlate_masked_kernel(
    grad_rois,
    pulls,
    grad,
    grad_strides,
    rois,
    masks,
    changes,
    maps,
    strides,
    heights,
    widths,
    cells,
    images,
    channels,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """The gradient to the boxes: a program takes one, all its bins and channels, in fixed order.

    `changes` is what `weigh_kernel` makes, or None where the masks move with the boxes. How much [boxes, bins] a larger
    mean weight would take away goes to `pulls`.
    """
    k = tl.program_id(0).to(tl.int64)
    image, image_exists = image_of_box(rois, k, images)
    rows, columns, pixel_rows, pixel_columns, usable = box_of(rois, k, masks, cells, PH, PW, RATIO, WIDEN)
    usable_bins = tl.where(usable & image_exists, PH * PW, 0)
    height, width = heights[0] >> 4, widths[0] >> 4
    values, strides_yx = maps[0] + image * strides[0][0], (strides[2][0], strides[3][0])
    y_scale, x_scale = from_bits(cells[0][0], rows[0]), from_bits(cells[2][0], rows[0])
    zeros = tl.zeros([BLOCK_C, BLOCK_BINS], rows[0].dtype)
    none = tl.zeros([BLOCK_BINS], rows[0].dtype)
    y_start, y_size, x_start, x_size = none, none, none, none
    for begin in range(0, PH * PW, BLOCK_BINS):
        bins = begin + tl.arange(0, BLOCK_BINS)
        p, q, inside = bins // PW, bins % PW, bins < usable_bins
        share, divisor = shares_of(masks, k, p, q, rows, columns, inside, PH, PW)
        y_first, y_count = run_between(rows[0], rows[1], rows[2], p, -1.0, height, RATIO)
        x_first, x_count = run_between(columns[0], columns[1], columns[2], q, -1.0, width, RATIO)
        by_weight, by_y_start, by_y_size, by_x_start, by_x_size = zeros, zeros, zeros, zeros, zeros
        for c_begin in range(0, channels, BLOCK_C):
            c = c_begin + tl.arange(0, BLOCK_C)
            channel = c.to(INDEX) * strides[1][0]
            upstream = load_upstream(grad, grad_strides, k, p, q, inside, c, channels).to(zeros.dtype)
            for iy in range(y_count):
                y_sample = y_first + iy
                y = across(bilinear(place_of(rows, p, y_sample, RATIO), height))
                y_pixel = bilinear(place_of(pixel_rows, p, y_sample, RATIO), masks[2][0] >> 4)
                y_share = share_along(p, y_sample, rows[2], PH)
                for ix in range(x_count):
                    x_sample = x_first + ix
                    x = across(bilinear(place_of(columns, q, x_sample, RATIO), width))
                    x_pixel = bilinear(place_of(pixel_columns, q, x_sample, RATIO), masks[2][1] >> 4)
                    x_share = share_along(q, x_sample, columns[2], PW)
                    taken = inside & (y_sample < rows[2]) & (x_sample < columns[2])
                    mask = (c < channels)[:, None] & taken[None, :]
                    pixels = load_pixels(masks, k, y_pixel, x_pixel, taken, share)
                    weight = surface(pixels, y_pixel, x_pixel)[None, :]
                    corners = load_corners(values, channel, strides_yx, y, x, mask, upstream, CHANNELS_LAST)
                    value = surface(corners, y, x) * upstream
                    by_y, by_x = slopes(corners, upstream, y, x, mask)
                    by_y, by_x = by_y * (weight * y_scale), by_x * (weight * x_scale)
                    if changes is not None:
                        of_y, of_x = slopes(pixels, 1.0, y_pixel, x_pixel, taken)
                        by_y, by_x = by_y + value * of_y[None, :], by_x + value * of_x[None, :]
                    by_weight += value * weight
                    by_y_start += by_y
                    by_y_size += by_y * y_share[None, :]
                    by_x_start += by_x
                    by_x_size += by_x * x_share[None, :]

        pull = divide(tl.sum(by_weight, 0) * share, divisor)
        tl.store(pulls + k * (PH * PW) + bins, pull, mask=bins < PH * PW)
        y_start, y_size = y_start + tl.sum(by_y_start, 0) * share, y_size + tl.sum(by_y_size, 0) * share
        x_start, x_size = x_start + tl.sum(by_x_start, 0) * share, x_size + tl.sum(by_x_size, 0) * share
        if changes is not None:
            at = changes + k * (4 * PH * PW) + bins
            y_start -= pull * tl.load(at, mask=inside, other=0.0)
            y_size -= pull * tl.load(at + PH * PW, mask=inside, other=0.0)
            x_start -= pull * tl.load(at + 2 * PH * PW, mask=inside, other=0.0)
            x_size -= pull * tl.load(at + 3 * PH * PW, mask=inside, other=0.0)

    of_height, of_width = tl.sum(y_size, 0), tl.sum(x_size, 0)
    if WIDEN:  # to one cell, whatever the box's size
        of_height = tl.where(rows[1] * PH > 1.0, of_height, 0.0)
        of_width = tl.where(columns[1] * PW > 1.0, of_width, 0.0)
    to = grad_rois + k * 5
    tl.store(to, of_height * 0.0)
    tl.store(to + 1, tl.sum(x_start, 0) - of_width)
    tl.store(to + 2, tl.sum(y_start, 0) - of_height)
    tl.store(to + 3, of_width)
    tl.store(to + 4, of_height)


@triton.jit
def run_in_both(axis, pixel_axis, bins, extent, begin, RATIO: tl.constexpr):
    """The first of the samples of each bin that may be on the map and read the tile of the mask, and how many."""
    map_first, map_count = run_between(axis[0], axis[1], axis[2], bins, -1.0, extent, RATIO)
    first, count = run_between(pixel_axis[0], pixel_axis[1], pixel_axis[2], bins, begin - 1.0, begin + TILE, RATIO)
    last = tl.minimum(first + count, map_first + map_count)
    first = tl.maximum(first, map_first)
    return first, tl.max(tl.maximum(last - first, 0), 0)


@triton.jit(do_not_specialize=["images"])
def correlate_masks_kernel(
    grad_masks,
    pulls,
    grad,
    grad_strides,
    rois,
    masks,
    maps,
    strides,
    heights,
    widths,
    cells,
    images,
    channels,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """The gradient to the masks: a program owns a tile of the mask of one box, adds up, and stores once."""
    mask_height, mask_width = masks[2][0] >> 4, masks[2][1] >> 4
    tiles_x = tiles_along(mask_width)
    tiles = tiles_along(mask_height) * tiles_x
    k, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    y_begin, x_begin = tile // tiles_x * TILE, tile % tiles_x * TILE
    image, image_exists = image_of_box(rois, k, images)
    rows, columns, pixel_rows, pixel_columns, usable = box_of(rois, k, masks, cells, PH, PW, RATIO, WIDEN)
    height, width = heights[0] >> 4, widths[0] >> 4
    values, strides_yx = maps[0] + image * strides[0][0], (strides[2][0], strides[3][0])
    p_first, p_count = bins_at_tile(pixel_rows[0], pixel_rows[1], y_begin, PH)
    q_first, q_count = bins_at_tile(pixel_columns[0], pixel_columns[1], x_begin, PW)
    count = tl.where(usable & image_exists, p_count * q_count, 0)
    total = tl.zeros([BLOCK_BINS, TILE * TILE], rows[0].dtype)
    for first in range(0, count, BLOCK_BINS):
        r = first + tl.arange(0, BLOCK_BINS)
        p, q, inside = p_first + r // q_count, q_first + r % q_count, r < count
        share = shares_of(masks, k, p, q, rows, columns, inside, PH, PW)[0]
        y_first, y_count = run_in_both(rows, pixel_rows, p, height, y_begin, RATIO)
        x_first, x_count = run_in_both(columns, pixel_columns, q, width, x_begin, RATIO)
        for iy in range(y_count):
            y_sample = y_first + iy
            y = across(bilinear(place_of(rows, p, y_sample, RATIO), height))
            y_pixel = bilinear(place_of(pixel_rows, p, y_sample, RATIO), mask_height)
            for ix in range(x_count):
                x_sample = x_first + ix
                x = across(bilinear(place_of(columns, q, x_sample, RATIO), width))
                x_pixel = bilinear(place_of(pixel_columns, q, x_sample, RATIO), mask_width)
                taken = inside & (y_sample < rows[2]) & (x_sample < columns[2])
                value = tl.zeros([BLOCK_BINS], total.dtype)
                for c_begin in range(0, channels, BLOCK_C):
                    c = c_begin + tl.arange(0, BLOCK_C)
                    channel, mask = c.to(INDEX) * strides[1][0], (c < channels)[:, None] & taken[None, :]
                    upstream = load_upstream(grad, grad_strides, k, p, q, taken, c, channels).to(total.dtype)
                    corners = load_corners(values, channel, strides_yx, y, x, mask, upstream, CHANNELS_LAST)
                    value += tl.sum(surface(corners, y, x) * upstream, 0)
                y_weight = weights_at_tile(y_begin, y_pixel, taken, taken)[0]
                x_weight = weights_at_tile(x_begin, x_pixel, taken, taken)[0]
                total += over_tile(y_weight, x_weight * (value * share)[:, None])
        pull = tl.load(pulls + k * (PH * PW) + p * PW + q, mask=inside, other=0.0)
        pull = divide(pull, pull * 0.0 + tl.maximum(rows[2] * columns[2], 1.0))
        y_mean = weights_along(y_begin, pixel_rows[0], pixel_rows[1], pixel_rows[2], p, mask_height, RATIO)[0]
        x_mean = weights_along(x_begin, pixel_columns[0], pixel_columns[1], pixel_columns[2], q, mask_width, RATIO)[0]
        total -= over_tile(y_mean, x_mean * pull[:, None])

    cell = tl.arange(0, TILE * TILE)
    y, x = y_begin + cell // TILE, x_begin + cell % TILE
    at = k * mask_height * mask_width + y.to(tl.int64) * mask_width + x
    tl.store(grad_masks + at, tl.sum(total, 0), mask=(y < mask_height) & (x < mask_width))
