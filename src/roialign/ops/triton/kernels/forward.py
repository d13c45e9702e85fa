"""The kernel that pools: a program takes one box, a block of its bins and a block of channels."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, position, run_between, share_on_map
from roialign.ops.triton.kernels.boxes import (
    block_of_program,
    columns_of_box,
    image_of_box,
    level_of_box,
    pick,
    pick_number,
    rows_of_box,
)
from roialign.ops.triton.kernels.rows import load_features


@triton.jit
def add_sample(
    total,
    values,
    channel,
    row_stride,
    column_stride,
    y_place,
    x_place,
    height,
    width,
    mask,
    CHANNELS_LAST: tl.constexpr,
    share=1.0,
):
    """Add to `total` [channels, bins] the value of one sample of each bin, or a `share` [bins] of it."""
    y_on_map, top, bottom, ly, _ = bilinear(y_place, height)
    x_on_map, left, right, lx, _ = bilinear(x_place, width)
    read = mask & (y_on_map & x_on_map)[None, :]
    index = channel.dtype  # 64-bit where the map needs it
    top, bottom = top.to(index) * row_stride, bottom.to(index) * row_stride
    left, right = left.to(index) * column_stride, right.to(index) * column_stride
    for corner in tl.static_range(4):
        row = top if corner < 2 else bottom
        column = left if corner % 2 == 0 else right
        weight = ((1.0 - ly) if corner < 2 else ly) * ((1.0 - lx) if corner % 2 == 0 else lx) * share
        value = load_features(values + (channel[:, None] + (row + column)[None, :]), read, CHANNELS_LAST)
        total = tl.fma(value.to(total.dtype), tl.broadcast_to(weight[None, :], total.shape), total)
    return total


@triton.jit(do_not_specialize=["images"])
def pool_kernel(
    output,
    coverage,
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
    BLOCK_PH: tl.constexpr,
    BLOCK_PW: tl.constexpr,
):
    k, channel_block, bin_block = block_of_program(channels, PH * PW, BLOCK_C, BLOCK_BINS)
    level, level_exists = level_of_box(levels, k, len(maps))
    image, image_exists = image_of_box(rois, k, images)
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, level, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, level, PW, RATIO, WIDEN)
    usable = level_exists & image_exists & y_usable & x_usable
    height, width = pick_number(heights, level), pick_number(widths, level)
    row_stride, column_stride = pick(strides[2], level), pick(strides[3], level)
    values = pick(maps, level) + image * pick(strides[0], level)

    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = bins // PW, bins % PW
    written = (c < channels)[:, None] & (bins < PH * PW)[None, :]
    mask = written & (usable & (bins < PH * PW))[None, :]
    channel = c.to(INDEX) * pick(strides[1], level)

    total = tl.zeros([BLOCK_C, BLOCK_BINS], y_start.dtype)
    if RATIO == 1 or RATIO == 2:
        for iy in tl.static_range(RATIO):
            for ix in tl.static_range(RATIO):
                y_place = position(y_start, y_bin, y_grid, p, p * 0 + iy, RATIO)
                x_place = position(x_start, x_bin, x_grid, q, q * 0 + ix, RATIO)
                total = add_sample(
                    total,
                    values,
                    channel,
                    row_stride,
                    column_stride,
                    y_place,
                    x_place,
                    height,
                    width,
                    mask,
                    CHANNELS_LAST,
                )
    else:
        y_first, y_count = run_between(y_start, y_bin, y_grid, p, -1.0, height, RATIO)
        x_first, x_count = run_between(x_start, x_bin, x_grid, q, -1.0, width, RATIO)
        for iy in range(y_count):
            y_place = position(y_start, y_bin, y_grid, p, y_first + iy, RATIO)
            y_mask = mask & (y_first + iy < y_grid)[None, :]
            for ix in range(x_count):
                x_place = position(x_start, x_bin, x_grid, q, x_first + ix, RATIO)
                both = y_mask & (x_first + ix < x_grid)[None, :]
                total = add_sample(
                    total,
                    values,
                    channel,
                    row_stride,
                    column_stride,
                    y_place,
                    x_place,
                    height,
                    width,
                    both,
                    CHANNELS_LAST,
                )

    share = divide(tl.where(usable, 1.0, float("nan")).to(total.dtype), tl.maximum(y_grid * x_grid, 1.0))
    mean = total * share
    at = c[:, None] * (PH * PW) + bins[None, :]
    tl.store(output + k * channels * (PH * PW) + at, mean.to(output.dtype.element_ty), mask=written)
    if (channel_block == 0) & (bin_block == 0):
        covered = share_on_map(y_start, y_bin, y_grid, height, PH, RATIO, BLOCK_PH)
        covered *= share_on_map(x_start, x_bin, x_grid, width, PW, RATIO, BLOCK_PW)
        tl.store(coverage + k, tl.where(usable, covered, float("nan")))
