"""The kernels of `roi_align_max`: a bin is its largest sample, or the largest product of a cell and its weight.

Samples are gone through row by row, and the first of the largest wins; NaN is larger than all else. Which one it was is
a number of 64 bits: the sample's row in its bin, its column and its corner, -1 where none counts.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, from_bits, position, run_between, share_on_map
from roialign.ops.triton.kernels.backward import bins_at_tile, over_tile, weights_at_tile
from roialign.ops.triton.kernels.backward_boxes import share_along, total_of
from roialign.ops.triton.kernels.boxes import block_of_program, columns_of_box, image_of_box, rows_of_box
from roialign.ops.triton.kernels.corners import across, load_corners, slopes, surface
from roialign.ops.triton.kernels.rows import load_upstream

ALL_CORNERS = tl.constexpr(4)


@triton.jit
def exceeds(value, largest):
    return (value > largest) | ((value != value) & (largest == largest))


@triton.jit
def largest_corner(corners, y, x):
    """The largest product of a corner and its weight, and which one that is."""
    _, _, _, ly, _ = y
    _, _, _, lx, _ = x
    largest = corners[0] * ((1.0 - ly) * (1.0 - lx))
    which = tl.zeros(largest.shape, tl.int32)
    for corner in tl.static_range(1, 4):
        weight = ((1.0 - ly) if corner < 2 else ly) * ((1.0 - lx) if corner % 2 == 0 else lx)
        product = corners[corner] * weight
        better = exceeds(product, largest)
        largest, which = tl.where(better, product, largest), tl.where(better, corner, which)
    return largest, which


@triton.jit
def search(
    values, channel, strides_yx, rows, columns, p, q, height, width, mask, RATIO: tl.constexpr, CORNERS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """The largest sample [channels, bins] of each bin, and which it is; 0 and -1 where none counts.

    Samples off the map are 0: none below that counts where there are such, and none where all are.
    """
    y_first, y_count = run_between(rows[0], rows[1], rows[2], p, -1.0, height, RATIO)
    x_first, x_count = run_between(columns[0], columns[1], columns[2], q, -1.0, width, RATIO)
    largest = tl.zeros(mask.shape, rows[0].dtype)
    place = tl.full(mask.shape, -1, tl.int64)
    seen = tl.zeros(p.shape, rows[0].dtype)
    for iy in range(y_count):
        y_sample = y_first + iy
        y = bilinear(position(rows[0], rows[1], rows[2], p, y_sample, RATIO), height)
        for ix in range(x_count):
            x_sample = x_first + ix
            x = bilinear(position(columns[0], columns[1], columns[2], q, x_sample, RATIO), width)
            on_map = y[0] & x[0] & (y_sample < rows[2]) & (x_sample < columns[2])
            read = mask & on_map[None, :]
            corners = load_corners(values, channel, strides_yx, across(y), across(x), read, largest, CHANNELS_LAST)
            if CORNERS:
                value, corner = largest_corner(corners, across(y), across(x))
            else:
                value, corner = surface(corners, across(y), across(x)), ALL_CORNERS
            better = read & ((place < 0) | exceeds(value, largest))
            number = (y_sample.to(tl.int64) << 32) | (x_sample.to(tl.int64) << 3)
            largest = tl.where(better, value, largest)
            place = tl.where(better, number[None, :] | corner, place)
            seen += on_map.to(seen.dtype)
    some_off = seen < rows[2] * columns[2]
    counts = (place >= 0) & ((largest < 0.0).to(tl.int32) * some_off.to(tl.int32)[None, :] == 0)
    return tl.where(counts, largest, 0.0), tl.where(counts, place, -1)


@triton.jit
def row_of(place):
    return (place >> 32).to(tl.int32)


@triton.jit
def column_of(place):
    return ((place >> 3) & 0x1FFFFFFF).to(tl.int32)


@triton.jit(do_not_specialize=["images"])
def pool_maxima_kernel(
    output,
    coverage,
    places,
    rois,
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
    CORNERS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_PH: tl.constexpr,
    BLOCK_PW: tl.constexpr,
):
    """A program takes one box, a block of its bins and a block of channels: for features, or for their places."""
    k, channel_block, bin_block = block_of_program(channels, PH * PW, BLOCK_C, BLOCK_BINS)
    image, image_exists = image_of_box(rois, k, images)
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, 0, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, 0, PW, RATIO, WIDEN)
    rows, columns = (y_start, y_bin, y_grid), (x_start, x_bin, x_grid)
    usable = image_exists & y_usable & x_usable
    height, width = heights[0] >> 4, widths[0] >> 4
    values = maps[0] + image * strides[0][0]
    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    written = (c < channels)[:, None] & (bins < PH * PW)[None, :]
    mask = written & (bins < tl.where(usable, PH * PW, 0))[None, :]
    largest, place = search(
        values, c.to(INDEX) * strides[1][0], (strides[2][0], strides[3][0]), rows, columns, bins // PW, bins % PW,
        height, width, mask, RATIO, CORNERS, CHANNELS_LAST,
    )  # fmt: skip
    at = k * channels * (PH * PW) + c[:, None] * (PH * PW) + bins[None, :]
    if places is not None:
        tl.store(places + at, place, mask=written)
    else:
        pooled = tl.where(usable, largest, float("nan"))
        tl.store(output + at, pooled.to(output.dtype.element_ty), mask=written)
        if (channel_block == 0) & (bin_block == 0):
            covered = share_on_map(y_start, y_bin, y_grid, height, PH, RATIO, BLOCK_PH)
            covered *= share_on_map(x_start, x_bin, x_grid, width, PW, RATIO, BLOCK_PW)
            tl.store(coverage + k, tl.where(usable, covered, float("nan")))


@triton.jit
def add_largest(
    total,
    grad,
    grad_strides,
    rois,
    k,
    here,
    places,
    y_begin,
    x_begin,
    c,
    channels,
    level,
    height,
    width,
    cells,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """Add to `total` [channels, cells] what the largest samples of box k give the tile, if it is `here`."""
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, level, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, level, PW, RATIO, WIDEN)
    p_first, p_count = bins_at_tile(y_start, y_bin, y_begin, PH)
    q_first, q_count = bins_at_tile(x_start, x_bin, x_begin, PW)
    bins = tl.where(here & y_usable & x_usable, p_count * q_count, 0)
    for number in range(bins):
        p, q = p_first + number // q_count, q_first + number % q_count
        at = places + (k * channels + c) * (PH * PW) + p * PW + q
        place = tl.load(at, mask=c < channels, other=-1)
        upstream = tl.load(
            grad + k * grad_strides[0] + c * grad_strides[1] + p * grad_strides[2] + q * grad_strides[3],
            mask=c < channels,
            other=0.0,
        )
        y = bilinear(position(y_start, y_bin, y_grid, p, row_of(place), RATIO), height)
        x = bilinear(position(x_start, x_bin, x_grid, q, column_of(place), RATIO), width)
        corner, counts = (place & 7).to(tl.int32), place >= 0
        every = counts & (corner == ALL_CORNERS)
        upper, left = counts & (corner < 2), counts & (corner % 2 == 0)
        y_weight, y_read = weights_at_tile(y_begin, y, every | upper, every | (counts & (corner >= 2)))
        x_weight, x_read = weights_at_tile(x_begin, x, every | left, every | (counts & (corner % 2 == 1)))
        given = over_tile(y_weight, x_weight) * upstream.to(total.dtype)[:, None]
        total += tl.where(over_tile(y_read, x_read) > 0, given, 0.0)
    return total


@triton.jit(do_not_specialize=["images"])
def correlate_maxima_kernel(
    grad_rois,
    grad,
    grad_strides,
    rois,
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
    CORNERS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """The gradient to the boxes: a program takes one, all its bins and channels, in fixed order."""
    k = tl.program_id(0).to(tl.int64)
    image, image_exists = image_of_box(rois, k, images)
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, 0, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, 0, PW, RATIO, WIDEN)
    rows, columns = (y_start, y_bin, y_grid), (x_start, x_bin, x_grid)
    usable_bins = tl.where(image_exists & y_usable & x_usable, PH * PW, 0)
    height, width = heights[0] >> 4, widths[0] >> 4
    values, strides_yx = maps[0] + image * strides[0][0], (strides[2][0], strides[3][0])
    zeros = tl.zeros([BLOCK_C, BLOCK_BINS], y_start.dtype)
    by_y_start, by_y_size, by_x_start, by_x_size = zeros, zeros, zeros, zeros
    for begin in range(0, PH * PW, BLOCK_BINS):
        bins = begin + tl.arange(0, BLOCK_BINS)
        p, q = bins // PW, bins % PW
        for c_begin in range(0, channels, BLOCK_C):
            c = c_begin + tl.arange(0, BLOCK_C)
            channel = c.to(INDEX) * strides[1][0]
            mask = (c < channels)[:, None] & (bins < usable_bins)[None, :]
            upstream = load_upstream(grad, grad_strides, k, p, q, bins < usable_bins, c, channels).to(y_start.dtype)
            _, place = search(
                values, channel, strides_yx, rows, columns, p, q, height, width, mask, RATIO, CORNERS, CHANNELS_LAST
            )
            counts = place >= 0
            y_sample, x_sample = row_of(place), column_of(place)
            y = bilinear(position(y_start, y_bin, y_grid, p[None, :], y_sample, RATIO), height)
            x = bilinear(position(x_start, x_bin, x_grid, q[None, :], x_sample, RATIO), width)
            corners = load_corners(values, channel, strides_yx, y, x, counts, upstream, CHANNELS_LAST)
            if CORNERS:
                corner = place & 7
                corners = (
                    tl.where(corner == 0, corners[0], 0.0),
                    tl.where(corner == 1, corners[1], 0.0),
                    tl.where(corner == 2, corners[2], 0.0),
                    tl.where(corner == 3, corners[3], 0.0),
                )
            by_y, by_x = slopes(corners, upstream, y, x, counts)
            by_y_start += by_y
            by_y_size += by_y * share_along(p[None, :], y_sample, y_grid, PH)
            by_x_start += by_x
            by_x_size += by_x * share_along(q[None, :], x_sample, x_grid, PW)

    y_start_sum, y_size_sum = total_of(by_y_start), total_of(by_y_size)
    x_start_sum, x_size_sum = total_of(by_x_start), total_of(by_x_size)
    if WIDEN:  # to one cell, whatever the box's size
        y_size_sum = tl.where(y_bin * PH > 1.0, y_size_sum, 0.0)
        x_size_sum = tl.where(x_bin * PW > 1.0, x_size_sum, 0.0)
    y_scale, x_scale = from_bits(cells[0][0], y_start), from_bits(cells[2][0], x_start)
    to = grad_rois + k * 5
    tl.store(to, y_start * 0.0)
    tl.store(to + 1, (x_start_sum - x_size_sum) * x_scale)
    tl.store(to + 2, (y_start_sum - y_size_sum) * y_scale)
    tl.store(to + 3, x_size_sum * x_scale)
    tl.store(to + 4, y_size_sum * y_scale)
