"""The kernels of `roi_align_rotated`, forward and gradient to the features.

Rows of samples are those of the box, along its height, and columns along its width: places there count from its centre,
in cells. A sample's row and column on the map both depend on both, so that nothing factors.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import axis_samples, bilinear, divide, from_bits, position, run_between
from roialign.ops.triton.kernels.backward import add_product, bins_between, over_tile, weights_at_tile
from roialign.ops.triton.kernels.boxes import block_of_program, image_of_box
from roialign.ops.triton.kernels.forward import add_sample
from roialign.ops.triton.kernels.rows import load_upstream
from roialign.ops.triton.kernels.spans import store_span
from roialign.ops.triton.kernels.tiles import TILE, cells_between

COLUMNS = tl.constexpr(6)  # image, centre x, centre y, width, height, angle


@triton.jit
def box_of(rois, k, cells, PH: tl.constexpr, PW: tl.constexpr, RATIO: tl.constexpr, WIDEN: tl.constexpr):
    """The centre (y, x), rows and columns (start, length of a bin, samples), and whether the box can be sampled."""
    x, y = tl.load(rois + k * COLUMNS + 1), tl.load(rois + k * COLUMNS + 2)
    y_scale, y_shift = from_bits(cells[0][0], y), from_bits(cells[1][0], y)
    x_scale, x_shift = from_bits(cells[2][0], x), from_bits(cells[3][0], x)
    centre_y, centre_x = y * y_scale - y_shift, x * x_scale - x_shift
    width, height = tl.load(rois + k * COLUMNS + 3) * x_scale, tl.load(rois + k * COLUMNS + 4) * y_scale
    infinity = float("inf")
    finite = (tl.abs(centre_y) < infinity) & (tl.abs(centre_x) < infinity)
    finite = finite & (tl.abs(width) < infinity) & (tl.abs(height) < infinity)
    if WIDEN:
        width, height = tl.where(width < 1.0, 1.0, width), tl.where(height < 1.0, 1.0, height)
    y_start, y_bin, y_grid, y_usable = axis_samples(-height / 2, height / 2, 1.0, 0.0, PH, RATIO, False)
    x_start, x_bin, x_grid, x_usable = axis_samples(-width / 2, width / 2, 1.0, 0.0, PW, RATIO, False)
    usable = y_usable & x_usable & finite & (tl.abs(tl.load(rois + k * COLUMNS + 5)) < infinity)
    centre_yx = (tl.where(usable, centre_y, 0.0), tl.where(usable, centre_x, 0.0))
    return centre_yx, (y_start, y_bin, y_grid), (x_start, x_bin, x_grid), usable


@triton.jit
def turn_of(angle, CLOCKWISE: tl.constexpr, RADIANS: tl.constexpr):
    """Cosine and sine in float64, counter-clockwise; quarter turns in degrees are exact.

    Angles of more than 2**58 degrees turn by anything.
    """
    if CLOCKWISE:
        angle = -angle
    if RADIANS:
        cos, sin = tl.cos(angle), tl.sin(angle)
    else:
        turns = angle / 90.0
        quarters = tl.floor(turns + 0.5)
        is_odd = quarters - 2.0 * tl.floor(quarters / 2.0) > 0.5
        quarters = tl.where(is_odd & (quarters - turns == 0.5), quarters - 1.0, quarters)  # halves to the even one
        rest = tl.fma(quarters, quarters * 0.0 - 90.0, angle) * 0.017453292519943295
        c, s = tl.cos(rest), tl.sin(rest)
        which = quarters - 4.0 * tl.floor(quarters / 4.0)
        is_odd = (which == 1.0) | (which == 3.0)
        cos = tl.where(is_odd, s, c) * tl.where((which == 1.0) | (which == 2.0), -1.0, 1.0)
        sin = tl.where(is_odd, c, s) * tl.where(which >= 2.0, -1.0, 1.0)
    return cos, sin


@triton.jit
def turn_of_box(turns, k, usable):
    """Cosine and sine; zeros for a box that cannot be sampled."""
    return tl.where(usable, tl.load(turns + k * 2), 0.0), tl.where(usable, tl.load(turns + k * 2 + 1), 0.0)


@triton.jit
def turned(along_rows, along_columns, centre_yx, turn):
    """The row and the column on the map, in the reference's order of operations."""
    cos, sin = turn
    y = along_rows * cos - along_columns * sin + centre_yx[0]
    x = along_rows * sin + along_columns * cos + centre_yx[1]
    return y, x


@triton.jit
def in_own_axes(centre_yx, turn, rows, columns, top, bottom, left, right):
    """Between which rows and which columns of the box a rectangle of the map lies, with what rounding may add."""
    cos, sin = turn
    above, below, before, after = top - centre_yx[0], bottom - centre_yx[0], left - centre_yx[1], right - centre_yx[1]
    largest = tl.abs(centre_yx[0]) + tl.abs(centre_yx[1]) + 2 * tl.abs(rows[0]) + 2 * tl.abs(columns[0])
    margin = 0.01 + 4e-6 * (largest + tl.abs(bottom) + tl.abs(right))
    low_row = tl.minimum(above * cos, below * cos) + tl.minimum(before * sin, after * sin) - margin
    high_row = tl.maximum(above * cos, below * cos) + tl.maximum(before * sin, after * sin) + margin
    low_column = tl.minimum(before * cos, after * cos) - tl.maximum(above * sin, below * sin) - margin
    high_column = tl.maximum(before * cos, after * cos) - tl.minimum(above * sin, below * sin) + margin
    return low_row, high_row, low_column, high_column


@triton.jit
def runs_near(rows, columns, p, q, near, RATIO: tl.constexpr):
    """For both sides of the box, the first of the samples of each bin that may lie there, and how many to look at."""
    y_first, y_count = run_between(rows[0], rows[1], rows[2], p, near[0], near[1], RATIO)
    x_first, x_count = run_between(columns[0], columns[1], columns[2], q, near[2], near[3], RATIO)
    return y_first, y_count, x_first, x_count


@triton.jit(do_not_specialize=["boxes", "images"])
def turn_kernel(
    turns,
    spans,
    rois,
    boxes,
    images,
    heights,
    widths,
    cells,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    CLOCKWISE: tl.constexpr,
    RADIANS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Cosine and sine of each box and, where `spans` are asked for, which cells it may read, as `spans.py` has it."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = k < boxes
    row = tl.minimum(k, boxes - 1).to(tl.int64)  # past the last box its neighbour is read
    angle = tl.load(rois + row * COLUMNS + 5)
    cos, sin = turn_of(angle.to(tl.float64), CLOCKWISE, RADIANS)
    cos, sin = cos.to(angle.dtype), sin.to(angle.dtype)
    tl.store(turns + row * 2, cos, mask=inside)
    tl.store(turns + row * 2 + 1, sin, mask=inside)
    if spans is not None:
        image, exists = image_of_box(rois, row, images, COLUMNS)
        centre_yx, rows, columns, usable = box_of(rois, row, cells, PH, PW, RATIO, WIDEN)
        cos, sin = tl.abs(cos), tl.abs(sin)
        down = tl.abs(rows[0]) * cos + tl.abs(columns[0]) * sin
        beside = tl.abs(rows[0]) * sin + tl.abs(columns[0]) * cos
        reads = usable & (rows[2] > 0.0) & (columns[2] > 0.0)
        top, bottom = cells_between(centre_yx[0] - down, centre_yx[0] + down, heights[0] >> 4, reads)
        left, right = cells_between(centre_yx[1] - beside, centre_yx[1] + beside, widths[0] >> 4, reads)
        plane, reads = image.to(tl.int32), exists & (bottom >= 0) & (right >= 0)
        store_span(spans, boxes, k, inside, reads, plane, plane, top, bottom, left, right)


@triton.jit
def count_on_map(
    centre_yx, turn, rows, columns, near, height, width, PH: tl.constexpr, PW: tl.constexpr, RATIO: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """How many samples of all bins are on the map."""
    counts = tl.zeros([BLOCK], tl.int64)
    for begin in range(0, PH * PW, BLOCK):
        bins = begin + tl.arange(0, BLOCK)
        p, q = bins // PW, bins % PW
        y_first, y_count, x_first, x_count = runs_near(rows, columns, p, q, near, RATIO)
        for iy in range(y_count):
            along_rows = position(rows[0], rows[1], rows[2], p, y_first + iy, RATIO)
            for ix in range(x_count):
                along_columns = position(columns[0], columns[1], columns[2], q, x_first + ix, RATIO)
                y, x = turned(along_rows, along_columns, centre_yx, turn)
                taken = (y_first + iy < rows[2]) & (x_first + ix < columns[2]) & (bins < PH * PW)
                on_map = (y >= -1.0) & (y <= height) & (x >= -1.0) & (x <= width)
                counts += (taken & on_map).to(tl.int64)
    return tl.sum(counts, 0)


@triton.jit(do_not_specialize=["images"])
def pool_rotated_kernel(
    output,
    coverage,
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
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """A program takes one box, a block of its bins and a block of channels."""
    k, channel_block, bin_block = block_of_program(channels, PH * PW, BLOCK_C, BLOCK_BINS)
    image, image_exists = image_of_box(rois, k, images, COLUMNS)
    centre_yx, rows, columns, usable = box_of(rois, k, cells, PH, PW, RATIO, WIDEN)
    turn = turn_of_box(turns, k, usable)
    usable = usable & image_exists
    height, width = heights[0] >> 4, widths[0] >> 4
    values = maps[0] + image * strides[0][0]
    near = in_own_axes(centre_yx, turn, rows, columns, -1.0, height, -1.0, width)

    bins = bin_block * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    p, q = bins // PW, bins % PW
    written = (c < channels)[:, None] & (bins < PH * PW)[None, :]
    mask = written & (bins < tl.where(usable, PH * PW, 0))[None, :]
    channel = c.to(INDEX) * strides[1][0]
    y_first, y_count, x_first, x_count = runs_near(rows, columns, p, q, near, RATIO)
    total = tl.zeros([BLOCK_C, BLOCK_BINS], rows[0].dtype)
    for iy in range(y_count):
        along_rows = position(rows[0], rows[1], rows[2], p, y_first + iy, RATIO)
        for ix in range(x_count):
            along_columns = position(columns[0], columns[1], columns[2], q, x_first + ix, RATIO)
            y, x = turned(along_rows, along_columns, centre_yx, turn)
            both = mask & ((y_first + iy < rows[2]) & (x_first + ix < columns[2]))[None, :]
            total = add_sample(
                total, values, channel, strides[2][0], strides[3][0], y, x, height, width, both, CHANNELS_LAST
            )

    share = divide(tl.where(usable, 1.0, float("nan")).to(total.dtype), tl.maximum(rows[2] * columns[2], 1.0))
    at = c[:, None] * (PH * PW) + bins[None, :]
    tl.store(output + k * channels * (PH * PW) + at, (total * share).to(output.dtype.element_ty), mask=written)
    if (channel_block == 0) & (bin_block == 0):
        count = count_on_map(centre_yx, turn, rows, columns, near, height, width, PH, PW, RATIO, BLOCK_BINS)
        covered = divide(count.to(total.dtype), tl.maximum(rows[2] * columns[2] * (PH * PW), 1.0))
        tl.store(coverage + k, tl.where(usable, covered, float("nan")))


@triton.jit
def add_rotated_box(
    total,
    grad,
    grad_strides,
    rois,
    k,
    here,
    turns,
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
    centre_yx, rows, columns, usable = box_of(rois, k, cells, PH, PW, RATIO, WIDEN)
    turn = turn_of_box(turns, k, usable)
    near = in_own_axes(centre_yx, turn, rows, columns, y_begin - 1.0, y_begin + TILE, x_begin - 1.0, x_begin + TILE)
    p_first, p_count = bins_between(rows[0], rows[1], near[0], near[1], PH)
    q_first, q_count = bins_between(columns[0], columns[1], near[2], near[3], PW)
    bins = tl.where(here & usable, p_count * q_count, 0)
    share = divide(tl.full([], 1, rows[0].dtype), tl.maximum(rows[2] * columns[2], 1.0))
    for first in range(0, bins, BLOCK_BINS):
        r = first + tl.arange(0, BLOCK_BINS)
        p, q = p_first + r // q_count, q_first + r % q_count
        weight = tl.zeros([BLOCK_BINS, TILE * TILE], rows[0].dtype)
        read = tl.zeros([BLOCK_BINS, TILE * TILE], tl.int32)
        y_first, y_count, x_first, x_count = runs_near(rows, columns, p, q, near, RATIO)
        for iy in range(y_count):
            along_rows = position(rows[0], rows[1], rows[2], p, y_first + iy, RATIO)
            for ix in range(x_count):
                along_columns = position(columns[0], columns[1], columns[2], q, x_first + ix, RATIO)
                y, x = turned(along_rows, along_columns, centre_yx, turn)
                taken = (y_first + iy < rows[2]) & (x_first + ix < columns[2])
                y_weight, y_read = weights_at_tile(y_begin, bilinear(y, height), taken, taken)
                x_weight, x_read = weights_at_tile(x_begin, bilinear(x, width), taken, taken)
                weight += over_tile(y_weight, x_weight)
                read = read | over_tile(y_read, x_read)
        upstream = load_upstream(grad, grad_strides, k, p, q, r < bins, c, channels)
        total = add_product(total, upstream, weight * share, read, PRODUCT)
    return total
