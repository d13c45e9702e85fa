"""The kernel that pools what bins have taps of: a program takes one box, a block of its bins and one of channels.

Features are volumes, of one plane where they are maps. With OWN a bin reads channels of its own: bin b of B and
channel c of the output read channel c * B + b of the features.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import divide
from roialign.ops.triton.kernels.boxes import block_of_program, image_of_box
from roialign.ops.triton.kernels.rows import load_features
from roialign.ops.triton.kernels.taps import axis_of_box, coverage_along, divisor, steps_of_bins, tap


@triton.jit
def channels_read(c, bins, step, BINS: tl.constexpr, OWN: tl.constexpr, INDEX: tl.constexpr):
    """How far in memory the channels [c, bins] or [c, 1] are that bins read."""
    channel = c[:, None]
    if OWN:
        channel = channel * BINS + bins[None, :]
    return channel.to(INDEX) * step


@triton.jit(do_not_specialize=["images", "depth", "height", "width"])
def pool_taps_kernel(
    output,
    coverage,
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
    LEFT_OUT: tl.constexpr,
    OWN: tl.constexpr,
    NAN_IF_EMPTY: tl.constexpr,
    INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_ALONG: tl.constexpr,
):
    count: tl.constexpr = PZ * PH * PW
    along_z: tl.constexpr = TAKE if AXES == 3 else "plane"
    k, channel_block, bin_block = block_of_program(channels, count, BLOCK_C, BLOCK_BINS)
    image, image_exists = image_of_box(rois, k, images, 1 + 2 * AXES)
    z_axis, z_usable = axis_of_box(rois, k, scales, 2, AXES, PZ, RATIO, WIDEN, along_z)
    y_axis, y_usable = axis_of_box(rois, k, scales, 1, AXES, PH, RATIO, WIDEN, TAKE)
    x_axis, x_usable = axis_of_box(rois, k, scales, 0, AXES, PW, RATIO, WIDEN, TAKE)
    usable = image_exists & z_usable & y_usable & x_usable
    rows, columns = height - LEFT_OUT, width - LEFT_OUT

    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    d, p, q = bins // (PH * PW), bins // PW % PH, bins % PW
    written = (c < channels)[:, None] & (bins < count)[None, :]
    mask = written & (bins < tl.where(usable, count, 0))[None, :]
    values = features + image * strides[0] + channels_read(c, bins, strides[1], count, OWN, INDEX)

    total = tl.zeros([BLOCK_C, BLOCK_BINS], y_axis[1].dtype)
    z_first, z_steps = steps_of_bins(z_axis, d, depth, RATIO, along_z)
    y_first, y_steps = steps_of_bins(y_axis, p, rows, RATIO, TAKE)
    x_first, x_steps = steps_of_bins(x_axis, q, columns, RATIO, TAKE)
    for iz in range(z_steps):
        z_cell, z_weight, z_read = tap(z_axis, d, z_first, iz, depth, RATIO, along_z)
        for iy in range(y_steps):
            y_cell, y_weight, y_read = tap(y_axis, p, y_first, iy, rows, RATIO, TAKE)
            row = z_cell.to(INDEX) * strides[2] + y_cell.to(INDEX) * strides[3]
            row_weight, row_read = z_weight * y_weight, z_read & y_read
            for ix in range(x_steps):
                x_cell, x_weight, x_read = tap(x_axis, q, x_first, ix, columns, RATIO, TAKE)
                at = (row + x_cell.to(INDEX) * strides[4])[None, :]
                value = load_features(values + at, mask & (row_read & x_read)[None, :], CHANNELS_LAST)
                weight = tl.broadcast_to((row_weight * x_weight)[None, :], total.shape)
                total = tl.fma(value.to(total.dtype), weight, total)

    samples = divisor(z_axis, d, depth, along_z) * divisor(y_axis, p, rows, TAKE) * divisor(x_axis, q, columns, TAKE)
    bad = tl.where(usable, 0.0, float("nan"))
    if NAN_IF_EMPTY and RATIO == 0:
        bad = tl.where((tl.ceil(y_axis[1]) == 0.0) | (tl.ceil(x_axis[1]) == 0.0), float("nan"), bad)
    mean = divide(total, tl.broadcast_to(samples[None, :], total.shape)) + bad.to(total.dtype)
    at = c[:, None] * count + bins[None, :]
    tl.store(output + k * channels * count + at, mean.to(output.dtype.element_ty), mask=written)
    if (channel_block == 0) & (bin_block == 0):
        covered = coverage_along(z_axis, depth, PZ, RATIO, along_z, BLOCK_ALONG)
        covered *= coverage_along(y_axis, height, PH, RATIO, TAKE, BLOCK_ALONG)
        covered *= coverage_along(x_axis, width, PW, RATIO, TAKE, BLOCK_ALONG)
        tl.store(coverage + k, covered + tl.where(usable, 0.0, float("nan")))
