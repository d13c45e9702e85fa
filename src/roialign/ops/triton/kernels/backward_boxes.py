"""The kernel of the gradient to the boxes: a program takes one box, all its bins and channels, in fixed order."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, from_bits, position, run_between
from roialign.ops.triton.kernels.boxes import columns_of_box, image_of_box, level_of_box, pick, pick_number, rows_of_box
from roialign.ops.triton.kernels.corners import across, load_corners, slopes
from roialign.ops.triton.kernels.rows import load_upstream


@triton.jit
def add_slopes(sums, upstream, values, channel, strides_yx, y, x, y_share, x_share, mask, CHANNELS_LAST: tl.constexpr):
    """Add to `sums` what one sample of each bin gives: by where the box begins and by its size, along y and along x.

    `y` and `x` are what `bilinear` says of the samples, the shares how far along the box they lie.
    """
    y, x = across(y), across(x)
    by_y_start, by_y_size, by_x_start, by_x_size = sums
    corners = load_corners(values, channel, strides_yx, y, x, mask, upstream, CHANNELS_LAST)
    by_y, by_x = slopes(corners, upstream, y, x, mask)
    return (
        by_y_start + by_y,
        by_y_size + by_y * y_share[None, :],
        by_x_start + by_x,
        by_x_size + by_x * x_share[None, :],
    )


@triton.jit
def share_along(bin_index, sample, grid, POOLED: tl.constexpr):
    """How far along the box samples lie, as a share of its size."""
    in_bin = divide(sample.to(grid.dtype) + 0.5, tl.maximum(grid, 1.0))
    return divide(bin_index.to(grid.dtype) + in_bin, grid * 0.0 + POOLED)


@triton.jit
def total_of(values):
    return tl.sum(tl.sum(values, 1), 0)


@triton.jit(do_not_specialize=["images"])
def correlate_kernel(
    grad_rois,
    grad,
    grad_strides,
    rois,
    levels,
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
    k = tl.program_id(0).to(tl.int64)
    level, level_exists = level_of_box(levels, k, len(maps))
    image, image_exists = image_of_box(rois, k, images)
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, level, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, level, PW, RATIO, WIDEN)
    usable = level_exists & image_exists & y_usable & x_usable
    height, width = pick_number(heights, level), pick_number(widths, level)
    strides_yx = (pick(strides[2], level), pick(strides[3], level))
    values = pick(maps, level) + image * pick(strides[0], level)
    zeros = tl.zeros([BLOCK_C, BLOCK_BINS], y_start.dtype)
    sums = (zeros, zeros, zeros, zeros)
    for begin in range(0, PH * PW, BLOCK_BINS):
        bins = begin + tl.arange(0, BLOCK_BINS)
        p, q = bins // PW, bins % PW
        y_first, y_count = run_between(y_start, y_bin, y_grid, p, -1.0, height, RATIO)
        x_first, x_count = run_between(x_start, x_bin, x_grid, q, -1.0, width, RATIO)
        for c_begin in range(0, channels, BLOCK_C):
            c = c_begin + tl.arange(0, BLOCK_C)
            channel = c.to(INDEX) * pick(strides[1], level)
            inside = (bins < PH * PW) & usable
            mask = (c < channels)[:, None] & inside[None, :]
            upstream = load_upstream(grad, grad_strides, k, p, q, inside, c, channels).to(y_start.dtype)
            for iy in range(y_count):
                y_sample = y_first + iy
                y = bilinear(position(y_start, y_bin, y_grid, p, y_sample, RATIO), height)
                y_share = share_along(p, y_sample, y_grid, PH)
                y_mask = mask & (y_sample < y_grid)[None, :]
                for ix in range(x_count):
                    x_sample = x_first + ix
                    x = bilinear(position(x_start, x_bin, x_grid, q, x_sample, RATIO), width)
                    x_share = share_along(q, x_sample, x_grid, PW)
                    both = y_mask & (x_sample < x_grid)[None, :]
                    sums = add_slopes(
                        sums, upstream, values, channel, strides_yx, y, x, y_share, x_share, both, CHANNELS_LAST
                    )

    samples = tl.maximum(y_grid * x_grid, 1.0)
    by_y_start, by_y_size = divide(total_of(sums[0]), samples), divide(total_of(sums[1]), samples)
    by_x_start, by_x_size = divide(total_of(sums[2]), samples), divide(total_of(sums[3]), samples)
    if WIDEN:  # to one cell, whatever the box's size
        by_y_size = tl.where(y_bin * PH > 1.0, by_y_size, 0.0)
        by_x_size = tl.where(x_bin * PW > 1.0, by_x_size, 0.0)
    y_scale, x_scale = from_bits(pick(cells[0], level), y_start), from_bits(pick(cells[2], level), x_start)
    to = grad_rois + k * 5
    tl.store(to, y_start * 0.0)
    tl.store(to + 1, (by_x_start - by_x_size) * x_scale)
    tl.store(to + 2, (by_y_start - by_y_size) * y_scale)
    tl.store(to + 3, by_x_size * x_scale)
    tl.store(to + 4, by_y_size * y_scale)
