"""The kernel of the gradient of `roi_align_rotated` to the boxes."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, from_bits, position
from roialign.ops.triton.kernels.backward_boxes import share_along, total_of
from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.corners import across, load_corners, slopes
from roialign.ops.triton.kernels.rotated import COLUMNS, box_of, in_own_axes, runs_near, turn_of_box, turned
from roialign.ops.triton.kernels.rows import load_upstream


@triton.jit(do_not_specialize=["images"])
def correlate_rotated_kernel(
    grad_rois,
    grad,
    grad_strides,
    rois,
    turns,
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
    CLOCKWISE: tl.constexpr,
    RADIANS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """The gradient to the boxes: a program takes one, all its bins and channels, in fixed order."""
    k = tl.program_id(0).to(tl.int64)
    image, image_exists = image_of_box(rois, k, images, COLUMNS)
    centre_yx, rows, columns, usable = box_of(rois, k, cells, PH, PW, RATIO, WIDEN)
    turn = turn_of_box(turns, k, usable)
    cos, sin = turn
    usable = usable & image_exists
    height, width = heights[0] >> 4, widths[0] >> 4
    values = maps[0] + image * strides[0][0]
    strides_yx = (strides[2][0], strides[3][0])
    near = in_own_axes(centre_yx, turn, rows, columns, -1.0, height, -1.0, width)
    zeros = tl.zeros([BLOCK_C, BLOCK_BINS], rows[0].dtype)
    of_y, of_x, of_height, of_width, of_angle = zeros, zeros, zeros, zeros, zeros
    for begin in range(0, PH * PW, BLOCK_BINS):
        bins = begin + tl.arange(0, BLOCK_BINS)
        p, q = bins // PW, bins % PW
        y_first, y_count, x_first, x_count = runs_near(rows, columns, p, q, near, RATIO)
        for c_begin in range(0, channels, BLOCK_C):
            c = c_begin + tl.arange(0, BLOCK_C)
            channel = c.to(INDEX) * strides[1][0]
            inside = bins < tl.where(usable, PH * PW, 0)
            upstream = load_upstream(grad, grad_strides, k, p, q, inside, c, channels).to(rows[0].dtype)
            for iy in range(y_count):
                along_rows = position(rows[0], rows[1], rows[2], p, y_first + iy, RATIO)
                down = share_along(p, y_first + iy, rows[2], PH) - 0.5
                for ix in range(x_count):
                    along_columns = position(columns[0], columns[1], columns[2], q, x_first + ix, RATIO)
                    beside = share_along(q, x_first + ix, columns[2], PW) - 0.5
                    y, x = turned(along_rows, along_columns, centre_yx, turn)
                    y, x = across(bilinear(y, height)), across(bilinear(x, width))
                    taken = inside & (y_first + iy < rows[2]) & (x_first + ix < columns[2])
                    mask = (c < channels)[:, None] & taken[None, :]
                    corners = load_corners(values, channel, strides_yx, y, x, mask, upstream, CHANNELS_LAST)
                    by_y, by_x = slopes(corners, upstream, y, x, mask)
                    by_rows, by_columns = by_y * cos + by_x * sin, by_x * cos - by_y * sin
                    of_y += by_y
                    of_x += by_x
                    of_height += by_rows * down[None, :]
                    of_width += by_columns * beside[None, :]
                    of_angle += by_columns * along_rows[None, :] - by_rows * along_columns[None, :]

    samples = tl.maximum(rows[2] * columns[2], 1.0)
    by_height, by_width = divide(total_of(of_height), samples), divide(total_of(of_width), samples)
    if WIDEN:  # to one cell, whatever the box's size
        by_height = tl.where(rows[1] * PH > 1.0, by_height, 0.0)
        by_width = tl.where(columns[1] * PW > 1.0, by_width, 0.0)
    by_angle = divide(total_of(of_angle), samples)
    if CLOCKWISE:
        by_angle = -by_angle
    if not RADIANS:
        by_angle *= 0.017453292519943295
    y_scale, x_scale = from_bits(cells[0][0], by_angle), from_bits(cells[2][0], by_angle)
    to = grad_rois + k * COLUMNS
    tl.store(to, by_angle * 0.0)
    tl.store(to + 1, divide(total_of(of_x), samples) * x_scale)
    tl.store(to + 2, divide(total_of(of_y), samples) * y_scale)
    tl.store(to + 3, by_width * x_scale)
    tl.store(to + 4, by_height * y_scale)
    tl.store(to + 5, by_angle)
