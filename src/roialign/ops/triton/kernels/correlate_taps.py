"""The kernel of the gradient to the boxes of what bins have taps of: a program takes one box, in fixed order."""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import from_bits
from roialign.ops.triton.kernels.backward_boxes import total_of
from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.pool_taps import channels_read
from roialign.ops.triton.kernels.rows import load_features, load_rows
from roialign.ops.triton.kernels.taps import axis_of_box, divisor, slopes_of_tap, steps_of_bins, tap


@triton.jit
def add_slopes_of(sums, product, weight, by_start, by_size, mask):
    """Add to `sums`, by where the box begins and by its size, what a tap gives by `slopes_of_tap` along one axis."""
    given = tl.where(mask, product * weight[None, :], 0.0)
    return sums[0] + given * by_start[None, :], sums[1] + given * by_size[None, :]


@triton.jit
def store_side(
    to,
    sums,
    axis,
    scales,
    AXIS: tl.constexpr,
    AXES: tl.constexpr,
    POOLED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    by_start, by_size = total_of(sums[0]), total_of(sums[1])
    if WIDEN:  # to one cell, whatever the box's size
        by_size = tl.where(axis[1] * POOLED > 1.0, by_size, 0.0)
    scale = from_bits(scales[2 * AXIS], by_size)
    tl.store(to + (1 + AXIS), (by_start - by_size) * scale)
    tl.store(to + (1 + AXES + AXIS), by_size * scale)


@triton.jit(do_not_specialize=["images", "depth", "height", "width"])
def correlate_taps_kernel(
    grad_rois,
    grad,
    grad_strides,
    rois,
    scales,
    features,
    strides,
    images,
    channels,
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
    OWN: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """`channels` are those of `grad`."""
    k = tl.program_id(0).to(tl.int64)
    count: tl.constexpr = PZ * PH * PW
    along_z: tl.constexpr = TAKE if AXES == 3 else "plane"
    image, image_exists = image_of_box(rois, k, images, 1 + 2 * AXES)
    z_axis, z_usable = axis_of_box(rois, k, scales, 2, AXES, PZ, RATIO, WIDEN, along_z)
    y_axis, y_usable = axis_of_box(rois, k, scales, 1, AXES, PH, RATIO, WIDEN, TAKE)
    x_axis, x_usable = axis_of_box(rois, k, scales, 0, AXES, PW, RATIO, WIDEN, TAKE)
    usable = image_exists & z_usable & y_usable & x_usable
    zeros = tl.zeros([BLOCK_C, BLOCK_BINS], y_axis[1].dtype)
    of_z, of_y, of_x = (zeros, zeros), (zeros, zeros), (zeros, zeros)
    for begin in range(0, count, BLOCK_BINS):
        bins = begin + tl.arange(0, BLOCK_BINS)
        d, p, q = bins // (PH * PW), bins // PW % PH, bins % PW
        z_first, z_steps = steps_of_bins(z_axis, d, depth, RATIO, along_z)
        y_first, y_steps = steps_of_bins(y_axis, p, height, RATIO, TAKE)
        x_first, x_steps = steps_of_bins(x_axis, q, width, RATIO, TAKE)
        samples = divisor(z_axis, d, depth, along_z) * divisor(y_axis, p, height, TAKE)
        share = 1.0 / (samples * divisor(x_axis, q, width, TAKE))
        for c_begin in range(0, channels, BLOCK_C):
            c = c_begin + tl.arange(0, BLOCK_C)
            mask = (c < channels)[:, None] & (bins < tl.where(usable, count, 0))[None, :]
            at = k * grad_strides[0] + d * grad_strides[2] + p * grad_strides[3] + q * grad_strides[4]
            upstream = load_rows(grad + at[None, :] + c[:, None] * grad_strides[1], mask).to(zeros.dtype)
            upstream = upstream * share[None, :]
            values = features + image * strides[0] + channels_read(c, bins, strides[1], count, OWN, INDEX)
            for iz in range(z_steps):
                z_cell, z_weight, z_read = tap(z_axis, d, z_first, iz, depth, RATIO, along_z)
                for iy in range(y_steps):
                    y_cell, y_weight, y_read = tap(y_axis, p, y_first, iy, height, RATIO, TAKE)
                    y_by_start, y_by_size, y_moves = slopes_of_tap(y_axis, p, y_first, iy, height, PH, RATIO, TAKE)
                    row = z_cell.to(INDEX) * strides[2] + y_cell.to(INDEX) * strides[3]
                    for ix in range(x_steps):
                        x_cell, x_weight, x_read = tap(x_axis, q, x_first, ix, width, RATIO, TAKE)
                        x_by_start, x_by_size, x_moves = slopes_of_tap(x_axis, q, x_first, ix, width, PW, RATIO, TAKE)
                        read = mask & (z_read & y_read & x_read)[None, :]
                        cell = (row + x_cell.to(INDEX) * strides[4])[None, :]
                        product = load_features(values + cell, read, CHANNELS_LAST).to(zeros.dtype) * upstream
                        weight = z_weight * x_weight
                        of_y = add_slopes_of(of_y, product, weight, y_by_start, y_by_size, read & y_moves[None, :])
                        weight = z_weight * y_weight
                        of_x = add_slopes_of(of_x, product, weight, x_by_start, x_by_size, read & x_moves[None, :])
                        if AXES == 3:
                            z_by_start, z_by_size, z_moves = slopes_of_tap(
                                z_axis, d, z_first, iz, depth, PZ, RATIO, TAKE
                            )
                            weight = y_weight * x_weight
                            of_z = add_slopes_of(of_z, product, weight, z_by_start, z_by_size, read & z_moves[None, :])

    to = grad_rois + k * (1 + 2 * AXES)
    tl.store(to, y_axis[1] * 0.0)
    store_side(to, of_x, x_axis, scales, 0, AXES, PW, WIDEN)
    store_side(to, of_y, y_axis, scales, 1, AXES, PH, WIDEN)
    if AXES == 3:
        store_side(to, of_z, z_axis, scales, 2, AXES, PZ, WIDEN)
