"""The kernels of `masked_roi_align`: a bin is sum(w f) / sum(w) over its samples, where w is the mask there.

`masks` is a tuple: the masks [boxes, rows, columns], their strides, their rows and columns and whether they are of the
image (numbers times 16, as those of maps), and the mean weights [boxes, bins] of all samples. Those factor into rows
and columns of pixels, so that samples off the map, which count with f = 0, need not be looked at one by one.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, from_bits, position, run_between, share_on_map
from roialign.ops.triton.kernels.backward import (
    add_product,
    bins_at_tile,
    over_tile,
    weights_at_tile,
)
from roialign.ops.triton.kernels.backward_boxes import share_along, total_of
from roialign.ops.triton.kernels.boxes import block_of_program, columns_of_box, image_of_box, rows_of_box
from roialign.ops.triton.kernels.corners import surface
from roialign.ops.triton.kernels.forward import add_sample
from roialign.ops.triton.kernels.rows import load_upstream
from roialign.ops.triton.kernels.tiles import TILE

MAX_MASKED_GRID = tl.constexpr(1 << 16)  # a mask is looked at for every sample, also off the map


@triton.jit
def on_mask(low, axis, scale, extent, in_image, POOLED: tl.constexpr):
    """Where the samples of an axis of the map lie on the masks: in the image, or on a mask that covers the box."""
    whole = divide(extent.to(low.dtype), tl.full([], POOLED, tl.float32).to(low.dtype))
    start = tl.where(in_image > 0, low - 0.5, -0.5)
    return start, tl.where(in_image > 0, divide(axis[1], scale), whole), axis[2]


@triton.jit
def box_of(
    rois, k, masks, cells, PH: tl.constexpr, PW: tl.constexpr, RATIO: tl.constexpr, WIDEN: tl.constexpr
):  # fmt: skip
    """Rows and columns of the map, then of the mask (start, length of a bin, samples), and whether all is usable."""
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, 0, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, 0, PW, RATIO, WIDEN)
    usable = y_usable & x_usable
    if RATIO == 0:
        largest = tl.maximum(tl.abs(tl.ceil(y_bin)), tl.abs(tl.ceil(x_bin)))
        usable = usable & (largest <= MAX_MASKED_GRID)
    rows, columns = (y_start, y_bin, y_grid), (x_start, x_bin, x_grid)
    height, width, in_image = masks[2][0] >> 4, masks[2][1] >> 4, masks[2][2] >> 4
    x_low, y_low = tl.load(rois + k * 5 + 1), tl.load(rois + k * 5 + 2)
    x_low, y_low = tl.where(usable, x_low, 0.0), tl.where(usable, y_low, 0.0)
    pixel_rows = on_mask(y_low, rows, from_bits(cells[0][0], y_low), height, in_image, PH)
    pixel_columns = on_mask(x_low, columns, from_bits(cells[2][0], x_low), width, in_image, PW)
    return rows, columns, pixel_rows, pixel_columns, usable


@triton.jit
def place_of(axis, bins, sample, RATIO: tl.constexpr):
    return position(axis[0], axis[1], axis[2], bins, sample, RATIO)


@triton.jit
def load_pixels(masks, k, y, x, mask, like):
    """The four pixels that samples read, in the type of `like`; zero where they are off the mask."""
    at = masks[0] + k * (masks[1][0] >> 4)
    row_stride, column_stride = (masks[1][1] >> 4).to(tl.int64), (masks[1][2] >> 4).to(tl.int64)
    read = mask & y[0] & x[0]
    top, bottom = y[1] * row_stride, y[2] * row_stride
    left, right = x[1] * column_stride, x[2] * column_stride
    top_left, top_right = tl.load(at + top + left, mask=read, other=0), tl.load(at + top + right, mask=read, other=0)
    bottom_left = tl.load(at + bottom + left, mask=read, other=0)
    bottom_right = tl.load(at + bottom + right, mask=read, other=0)
    kind = like.dtype
    return top_left.to(kind), top_right.to(kind), bottom_left.to(kind), bottom_right.to(kind)


@triton.jit
def weight_at(masks, k, y_place, x_place, taken):
    """The mask's weight of the samples of bins at these pixels."""
    y, x = bilinear(y_place, masks[2][0] >> 4), bilinear(x_place, masks[2][1] >> 4)
    return surface(load_pixels(masks, k, y, x, taken, y_place), y, x)


@triton.jit
def shares_of(masks, k, p, q, rows, columns, inside, PH: tl.constexpr, PW: tl.constexpr):
    """What the weights of samples of bins are multiplied by, and the mean of those weights, 1 where that is 0."""
    mean = tl.load(masks[3] + k * (PH * PW) + p * PW + q, mask=inside, other=0.0)
    divisor = tl.where(mean == 0.0, 1.0, mean)
    share = tl.where(mean == 0.0, 0.0, divide(mean * 0.0 + 1.0, divisor))
    return divide(share, mean * 0.0 + tl.maximum(rows[2] * columns[2], 1.0)), divisor


@triton.jit
def pixels_along(begin, axis, bins, extent, POOLED: tl.constexpr, RATIO: tl.constexpr):
    """The sum of the weights [bins, TILE] of pixels from `begin` on in the samples of bins.

    Then how it changes with where the box begins, and with its size.
    """
    pixel = begin + tl.arange(0, TILE)
    weight = tl.zeros([bins.shape[0], TILE], axis[0].dtype)
    by_start, by_size = weight, weight
    first, count = run_between(axis[0], axis[1], axis[2], bins, begin - 1.0, begin + TILE, RATIO)
    for i in range(count):
        on_map, low, high, fraction, free = bilinear(place_of(axis, bins, first + i, RATIO), extent)
        taken = on_map & (first + i < axis[2])
        is_low = tl.where((pixel[None, :] == low[:, None]) & taken[:, None], 1.0, 0.0)
        is_high = tl.where((pixel[None, :] == high[:, None]) & (taken & (high > low))[:, None], 1.0, 0.0)
        weight += is_low * (1.0 - fraction)[:, None] + is_high * fraction[:, None]
        slope = tl.where(free[:, None], is_high - is_low, 0.0)
        by_start += slope
        by_size += slope * share_along(bins, first + i, axis[2], POOLED)[:, None]
    return weight, by_start, by_size


@triton.jit
def pixels_read(axis, bin_index, extent, RATIO: tl.constexpr):
    """The first and the last pixel that a bin may read along an axis."""
    one_end = place_of(axis, bin_index, bin_index * 0, RATIO)
    other_end = place_of(axis, bin_index, tl.maximum(axis[2] - 1.0, 0.0), RATIO)
    low, high = tl.minimum(one_end, other_end) - 1e-3, tl.maximum(one_end, other_end) + 1e-3
    first = tl.minimum(tl.maximum(tl.floor(low), 0.0), extent - 1.0).to(tl.int32)
    last = tl.minimum(tl.maximum(tl.floor(high) + 1.0, 0.0), extent - 1.0).to(tl.int32)
    return first, last


@triton.jit
def weigh_kernel(
    changes,
    rois,
    masks,
    cells,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The mean weight of a bin's samples, a program for each bin.

    Where `changes` [boxes, 4, bins] are asked for, also how it changes with where the box begins and with its size, in
    pixels, along y and along x.
    """
    k = (tl.program_id(0) // (PH * PW)).to(tl.int64)
    bin_index = tl.program_id(0) % (PH * PW)
    p, q = bin_index // PW, bin_index % PW
    rows, columns, pixel_rows, pixel_columns, usable = box_of(rois, k, masks, cells, PH, PW, RATIO, WIDEN)
    height, width = masks[2][0] >> 4, masks[2][1] >> 4
    top, bottom = pixels_read(pixel_rows, p, height, RATIO)
    left, right = pixels_read(pixel_columns, q, width, RATIO)
    bottom = tl.where(usable & (rows[2] > 0.0) & (columns[2] > 0.0), bottom, top - 1)
    at = masks[0] + k * (masks[1][0] >> 4)
    one = tl.arange(0, 1)  # bin: `run_between` takes blocks
    pixel = tl.arange(0, TILE * TILE)
    sums = tl.zeros([1, TILE * TILE], rows[0].dtype)
    of_y_start, of_y_size, of_x_start, of_x_size = sums, sums, sums, sums
    for y_tile in range(tl.cdiv(bottom + 1 - top, TILE)):
        y_begin = top + y_tile * TILE
        y_weight, y_start, y_size = pixels_along(y_begin, pixel_rows, p + one, height, PH, RATIO)
        y = y_begin + pixel // TILE
        for x_tile in range(tl.cdiv(right + 1 - left, TILE)):
            x_begin = left + x_tile * TILE
            x_weight, x_start, x_size = pixels_along(x_begin, pixel_columns, q + one, width, PW, RATIO)
            x = x_begin + pixel % TILE
            offset = y * (masks[1][1] >> 4).to(tl.int64) + x * (masks[1][2] >> 4).to(tl.int64)
            value = tl.load(at + offset, mask=(y < height) & (x < width), other=0).to(sums.dtype)[None, :]
            sums += over_tile(y_weight, x_weight) * value
            if changes is not None:
                of_y_start += over_tile(y_start, x_weight) * value
                of_y_size += over_tile(y_size, x_weight) * value
                of_x_start += over_tile(y_weight, x_start) * value
                of_x_size += over_tile(y_weight, x_size) * value
    samples = tl.maximum(rows[2] * columns[2], 1.0)
    tl.store(masks[3] + k * (PH * PW) + bin_index, divide(total_of(sums), samples))
    if changes is not None:
        to = changes + k * (4 * PH * PW) + bin_index
        tl.store(to, divide(total_of(of_y_start), samples))
        tl.store(to + PH * PW, divide(total_of(of_y_size), samples))
        tl.store(to + 2 * PH * PW, divide(total_of(of_x_start), samples))
        tl.store(to + 3 * PH * PW, divide(total_of(of_x_size), samples))


@triton.jit(do_not_specialize=["images"])
def pool_masked_kernel(
    output,
    coverage,
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
    BLOCK_PH: tl.constexpr,
    BLOCK_PW: tl.constexpr,
):
    """A program takes one box, a block of its bins and a block of channels."""
    k, channel_block, bin_block = block_of_program(channels, PH * PW, BLOCK_C, BLOCK_BINS)
    image, image_exists = image_of_box(rois, k, images)
    rows, columns, pixel_rows, pixel_columns, usable = box_of(rois, k, masks, cells, PH, PW, RATIO, WIDEN)
    usable = usable & image_exists
    height, width = heights[0] >> 4, widths[0] >> 4
    values = maps[0] + image * strides[0][0]
    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = bins // PW, bins % PW
    written = (c < channels)[:, None] & (bins < PH * PW)[None, :]
    inside = bins < tl.where(usable, PH * PW, 0)
    channel = c.to(INDEX) * strides[1][0]
    share, _ = shares_of(masks, k, p, q, rows, columns, inside, PH, PW)
    y_first, y_count = run_between(rows[0], rows[1], rows[2], p, -1.0, height, RATIO)
    x_first, x_count = run_between(columns[0], columns[1], columns[2], q, -1.0, width, RATIO)
    total = tl.zeros([BLOCK_C, BLOCK_BINS], rows[0].dtype)
    for iy in range(y_count):
        y_sample = y_first + iy
        for ix in range(x_count):
            x_sample = x_first + ix
            taken = inside & (y_sample < rows[2]) & (x_sample < columns[2])
            y_pixel, x_pixel = place_of(pixel_rows, p, y_sample, RATIO), place_of(pixel_columns, q, x_sample, RATIO)
            weight = weight_at(masks, k, y_pixel, x_pixel, taken) * share
            # a sample of no weight reads nothing, so what is under it does not matter
            mask = (c < channels)[:, None] & (taken & (weight != 0.0))[None, :]
            y, x = place_of(rows, p, y_sample, RATIO), place_of(columns, q, x_sample, RATIO)
            total = add_sample(
                total, values, channel, strides[2][0], strides[3][0], y, x, height, width, mask, CHANNELS_LAST, weight
            )

    at = c[:, None] * (PH * PW) + bins[None, :]
    pooled = tl.where(usable, total, float("nan"))
    tl.store(output + k * channels * (PH * PW) + at, pooled.to(output.dtype.element_ty), mask=written)
    if (channel_block == 0) & (bin_block == 0):
        covered = share_on_map(rows[0], rows[1], rows[2], height, PH, RATIO, BLOCK_PH)
        covered *= share_on_map(columns[0], columns[1], columns[2], width, PW, RATIO, BLOCK_PW)
        tl.store(coverage + k, tl.where(usable, covered, float("nan")))


@triton.jit
def add_masked_box(
    total,
    grad,
    grad_strides,
    rois,
    k,
    here,
    masks,
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
    """Add to `total` [channels, cells] what box k gives the tile, if it is `here`."""
    rows, columns, pixel_rows, pixel_columns, usable = box_of(rois, k, masks, cells, PH, PW, RATIO, WIDEN)
    p_first, p_count = bins_at_tile(rows[0], rows[1], y_begin, PH)
    q_first, q_count = bins_at_tile(columns[0], columns[1], x_begin, PW)
    bins = tl.where(here & usable, p_count * q_count, 0)
    for first in range(0, bins, BLOCK_BINS):
        r = first + tl.arange(0, BLOCK_BINS)
        p, q = p_first + r // q_count, q_first + r % q_count
        y_first, y_count = run_between(rows[0], rows[1], rows[2], p, y_begin - 1.0, y_begin + TILE, RATIO)
        x_first, x_count = run_between(columns[0], columns[1], columns[2], q, x_begin - 1.0, x_begin + TILE, RATIO)
        share, _ = shares_of(masks, k, p, q, rows, columns, r < bins, PH, PW)
        weights = tl.zeros([BLOCK_BINS, TILE * TILE], rows[0].dtype)
        read = tl.zeros([BLOCK_BINS, TILE * TILE], tl.int32)
        for iy in range(y_count):
            y_sample = y_first + iy
            y = bilinear(place_of(rows, p, y_sample, RATIO), height)
            y_pixel = place_of(pixel_rows, p, y_sample, RATIO)
            for ix in range(x_count):
                x_sample = x_first + ix
                taken = (r < bins) & (y_sample < rows[2]) & (x_sample < columns[2])
                x = bilinear(place_of(columns, q, x_sample, RATIO), width)
                x_pixel = place_of(pixel_columns, q, x_sample, RATIO)
                weight = weight_at(masks, k, y_pixel, x_pixel, taken) * share
                taken = taken & (weight != 0.0)
                y_weight, y_read = weights_at_tile(y_begin, y, taken, taken)
                x_weight, x_read = weights_at_tile(x_begin, x, taken, taken)
                weights += over_tile(y_weight, x_weight * weight[:, None])
                read = read | over_tile(y_read, x_read)
        upstream = load_upstream(grad, grad_strides, k, p, q, r < bins, c, channels)
        total = add_product(total, upstream, weights, read, PRODUCT)
    return total
