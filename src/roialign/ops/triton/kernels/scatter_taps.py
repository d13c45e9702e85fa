"""The kernel of the gradient to the features of what bins have taps of: a program owns a tile and some channels.

It goes through the boxes that read the tile in their order, adds up in registers, and stores once.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.taps import axis_of_box, bins_at, weights_at
from roialign.ops.triton.kernels.tiles import TILE, tiles_along


@triton.jit
def add_rows(total, across, x_read, y_weight, y_read):
    """Add what was spread over columns [c, TILE] to the rows, where it is read; c may be 1 but of `across`."""
    read = (y_read[:, :, None] & x_read[:, None, :]) > 0
    return total + tl.where(tl.broadcast_to(read, total.shape), across[:, None, :] * y_weight[:, :, None], 0.0)


@triton.jit
def add_own(
    total,
    at,
    strides,
    c,
    channels,
    y_axis,
    x_axis,
    y_begin,
    x_begin,
    rows,
    columns,
    PH: tl.constexpr,
    PW: tl.constexpr,
    TAKE: tl.constexpr,
    RATIO: tl.constexpr,
):
    """Add what a box gives channels of which each belongs to one bin."""
    bins = c % (PH * PW)
    p, q = bins // PW, bins % PW
    at += (c // (PH * PW)) * strides[1] + p * strides[3] + q * strides[4]
    upstream = tl.load(at, mask=c < channels, other=0.0).to(total.dtype)
    y_weight, y_read = weights_at(y_axis, y_begin, p, rows, RATIO, TAKE, TILE)
    x_weight, x_read = weights_at(x_axis, x_begin, q, columns, RATIO, TAKE, TILE)
    return add_rows(total, upstream[:, None] * x_weight, x_read, y_weight, y_read)


@triton.jit
def add_bins(
    total,
    at,
    strides,
    c,
    channels,
    z_axis,
    y_axis,
    x_axis,
    z,
    y_begin,
    x_begin,
    depth,
    rows,
    columns,
    PZ: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    AXES: tl.constexpr,
    TAKE: tl.constexpr,
    RATIO: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Add what a box gives: rows of bins are spread over columns, and these over rows."""
    along_z: tl.constexpr = TAKE if AXES == 3 else "plane"
    one = tl.arange(0, 1)
    d_first, d_count = bins_at(z_axis, z, PZ, along_z)
    p_first, p_count = bins_at(y_axis, y_begin, PH, TAKE)
    q_first, q_count = bins_at(x_axis, x_begin, PW, TAKE)
    for q_begin in range(q_first, q_first + q_count, BLOCK_Q):
        q = q_begin + tl.arange(0, BLOCK_Q)
        x_weight, x_read = weights_at(x_axis, x_begin, q, columns, RATIO, TAKE, TILE)
        mask = (c < channels)[:, None] & (q < q_first + q_count)[None, :]
        x_read = x_read & (q < q_first + q_count).to(tl.int32)[:, None]
        of_columns = tl.max(x_read, 0)[None, :]
        for r in range(d_count * p_count):
            d, p = d_first + r // p_count, p_first + r % p_count
            z_weight, z_read = weights_at(z_axis, z, d + one, depth, RATIO, along_z, 1)
            y_weight, y_read = weights_at(y_axis, y_begin, p + one, rows, RATIO, TAKE, TILE)
            row = at + d * strides[2] + p * strides[3]
            upstream = tl.load(row + c[:, None] * strides[1] + q[None, :] * strides[4], mask=mask, other=0.0)
            products = upstream.to(total.dtype)[:, :, None] * x_weight[None, :, :]
            products = tl.where(tl.broadcast_to((x_read > 0)[None, :, :], products.shape), products, 0.0)
            total = add_rows(total, tl.sum(products, 1), of_columns, y_weight * z_weight, y_read & z_read)
    return total


@triton.jit(do_not_specialize=["boxes", "images", "channels", "depth", "height", "width", "room"])
def scatter_taps_kernel(
    grad_features,
    grad,
    grad_strides,
    rois,
    scales,
    listed,
    counts,
    boxes,
    images,
    channels,
    depth,
    height,
    width,
    room,
    PZ: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    AXES: tl.constexpr,
    TAKE: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    LEFT_OUT: tl.constexpr,
    OWN: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    along_z: tl.constexpr = TAKE if AXES == 3 else "plane"
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    slot = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    tiles_x = tiles_along(width)
    tiles = tiles_along(height) * tiles_x
    plane, tile = slot // tiles, slot % tiles
    y_begin, x_begin = tile // tiles_x * TILE, tile % tiles_x * TILE
    rows, columns = height - LEFT_OUT, width - LEFT_OUT

    count = tl.load(counts + slot)
    fits = count <= room
    at_list = listed + slot.to(tl.int64) * room
    total = tl.zeros([BLOCK_C, TILE, TILE], rois.dtype.element_ty)
    for number in range(tl.where(fits, count, boxes)):
        k = tl.where(fits, tl.load(at_list + number, mask=fits, other=0), number).to(tl.int64)
        image, usable = image_of_box(rois, k, images, 1 + 2 * AXES)
        z_axis, z_usable = axis_of_box(rois, k, scales, 2, AXES, PZ, RATIO, WIDEN, along_z)
        y_axis, y_usable = axis_of_box(rois, k, scales, 1, AXES, PH, RATIO, WIDEN, TAKE)
        x_axis, x_usable = axis_of_box(rois, k, scales, 0, AXES, PW, RATIO, WIDEN, TAKE)
        if usable & z_usable & y_usable & x_usable & (image == plane // depth):
            at = grad + k * grad_strides[0]
            if OWN:
                total = add_own(
                    total, at, grad_strides, c, channels, y_axis, x_axis, y_begin, x_begin, rows, columns,
                    PH, PW, TAKE, RATIO,
                )  # fmt: skip
            else:
                total = add_bins(
                    total, at, grad_strides, c, channels, z_axis, y_axis, x_axis, plane % depth, y_begin, x_begin,
                    depth, rows, columns, PZ, PH, PW, AXES, TAKE, RATIO, BLOCK_Q,
                )  # fmt: skip

    store_tile(grad_features, total, plane // depth, plane % depth, y_begin, x_begin, c, channels, depth, height, width,
               INDEX)  # fmt: skip


@triton.jit
def store_tile(to, total, image, z, y_begin, x_begin, c, channels, depth, height, width, INDEX: tl.constexpr):
    """Store a tile [channels, TILE, TILE] of the gradient to features, which is contiguous."""
    y, x = (y_begin + tl.arange(0, TILE))[None, :, None], (x_begin + tl.arange(0, TILE))[None, None, :]
    channel = c[:, None, None]
    plane_size = height.to(INDEX) * width
    at = (channel.to(INDEX) * depth + z) * plane_size + y.to(INDEX) * width + x
    begin = image.to(tl.int64) * channels * depth * plane_size
    tl.store(to + begin + at, total.to(to.dtype.element_ty), mask=(channel < channels) & (y < height) & (x < width))
