"""The kernels of the gradient to the features of what bins have taps of.

One says what each box may read, for the lists of tiles. Of the other a program owns a tile and some channels: it goes
through the boxes that read the tile in their order, adds up in registers, and stores once.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.backward import store_cells
from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.spans import store_span
from roialign.ops.triton.kernels.taps import axis_of_box, bins_at, cells_of_box, weights_at
from roialign.ops.triton.kernels.tiles import TILE, tiles_along


@triton.jit(do_not_specialize=["boxes", "images", "depth", "height", "width"])
def span_taps_kernel(
    spans,
    rois,
    scales,
    boxes,
    images,
    depth,
    height,
    width,
    PZ: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    AXES: tl.constexpr,
    TAKE: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    LEFT_OUT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """What boxes of which bins have taps may read."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    row = tl.minimum(k, boxes - 1).to(tl.int64)
    image, exists = image_of_box(rois, row, images, 1 + 2 * AXES)
    y_axis, y_usable = axis_of_box(rois, row, scales, 1, AXES, PH, RATIO, WIDEN, TAKE)
    x_axis, x_usable = axis_of_box(rois, row, scales, 0, AXES, PW, RATIO, WIDEN, TAKE)
    top, bottom = cells_of_box(y_axis, height - LEFT_OUT, PH, RATIO, TAKE)
    left, right = cells_of_box(x_axis, width - LEFT_OUT, PW, RATIO, TAKE)
    reads = exists & y_usable & x_usable & (bottom >= top) & (right >= left)
    front, back = top * 0, top * 0
    if AXES == 3:
        z_axis, z_usable = axis_of_box(rois, row, scales, 2, AXES, PZ, RATIO, WIDEN, TAKE)
        front, back = cells_of_box(z_axis, depth, PZ, RATIO, TAKE)
        reads = reads & z_usable & (back >= front)
    first_plane = image.to(tl.int32) * depth
    last_plane = first_plane + back
    store_span(spans, boxes, k, k < boxes, reads, first_plane + front, last_plane, top, bottom, left, right)


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
    d_first, d_count = bins_at(z_axis, z, PZ, along_z, 1)
    p_first, p_count = bins_at(y_axis, y_begin, PH, TAKE, TILE)
    q_first, q_count = bins_at(x_axis, x_begin, PW, TAKE, TILE)
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

    store_tile(
        *(grad_features, total, plane // depth, plane % depth, y_begin, x_begin, c, channels, depth, height, width),
        INDEX,
    )


@triton.jit
def store_tile(to, total, image, z, y_begin, x_begin, c, channels, depth, height, width, INDEX: tl.constexpr):
    """Store a tile [channels, TILE, TILE] of the gradient to features, which is contiguous."""
    cell = tl.arange(0, TILE * TILE)
    y, x = y_begin + cell // TILE, x_begin + cell % TILE
    plane = (image.to(tl.int64) * channels) * depth + z
    flat = tl.reshape(total, [total.shape[0], TILE * TILE])
    store_cells(to, flat, plane, depth, y, x, c, channels, height, width, INDEX)
