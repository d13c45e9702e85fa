"""The kernel of the gradient to the features: a program owns a tile of a map and a block of channels.

It goes through the boxes that read the tile in their order, adds up in registers, and stores once. What a box gives a
tile is for each operator to say: ADD_BOX, which is told of what there is `beside`. Mostly that is a small matrix
product, [cells, bins] weights times [bins, channels] upstream gradient. With IS_SPLIT a program takes one share of a
tile's boxes, and its sum goes to `sums` of [splits, all tiles' cells, channels].
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import bilinear, divide, position, run_between
from roialign.ops.triton.kernels.boxes import columns_of_box, image_of_box, level_of_box, pick, pick_number, rows_of_box
from roialign.ops.triton.kernels.rows import load_upstream
from roialign.ops.triton.kernels.tiles import TILE, level_of, tiles_along


@triton.jit
def bins_between(start, bin_size, lowest, highest, POOLED: tl.constexpr):
    """The first bin that may have samples from `lowest` to `highest` along an axis, and how many may."""
    one_end = (lowest - start) / bin_size
    other_end = (highest - start) / bin_size
    slack = 0.01 + 1e-6 * tl.abs(start / bin_size)
    first = tl.maximum(tl.floor(tl.minimum(one_end, other_end) - slack), 0.0)
    last = tl.minimum(tl.floor(tl.maximum(one_end, other_end) + slack), POOLED - 1.0)
    point = tl.abs(bin_size) < 1e-30  # all bins lie on one place
    first = tl.where(point, 0.0, tl.minimum(first, POOLED - 1.0)).to(tl.int32)
    last = tl.where(point, POOLED - 1.0, tl.maximum(last, -1.0)).to(tl.int32)
    return first, tl.maximum(last - first + 1, 0)


@triton.jit
def bins_at_tile(start, bin_size, tile_begin, POOLED: tl.constexpr, SIDE: tl.constexpr = TILE):
    """The first bin that may read cells of a tile along an axis, and how many may."""
    return bins_between(start, bin_size, tile_begin - 1.0, tile_begin + SIDE, POOLED)


@triton.jit
def weights_at_tile(tile_begin, cells, takes_low, takes_high, SIDE: tl.constexpr = TILE):
    """The weight [samples, SIDE] of each of a tile's cells along an axis in samples, and whether it is read.

    `cells` is what `bilinear` says of the samples, the others which take the first and which the second of their cells.
    """
    on_map, low, high, fraction, _ = cells
    cell = tile_begin + tl.arange(0, SIDE)
    is_low = (cell[None, :] == low[:, None]) & (on_map & takes_low)[:, None]
    is_high = (cell[None, :] == high[:, None]) & (on_map & takes_high & (high > low))[:, None]
    weight = tl.where(is_low, (1.0 - fraction)[:, None], 0.0) + tl.where(is_high, fraction[:, None], 0.0)
    return weight, (is_low | is_high).to(tl.int32)


@triton.jit
def weights_along(tile_begin, start, bin_size, grid, bins, extent, RATIO: tl.constexpr, SIDE: tl.constexpr = TILE):
    """The weight [bins, SIDE] of each of a tile's cells in each bin along an axis, and whether the bin reads it."""
    first, count = run_between(start, bin_size, grid, bins, tile_begin - 1.0, tile_begin + SIDE, RATIO)
    shape: tl.constexpr = [bins.shape[0], SIDE]
    weight = tl.zeros(shape, start.dtype)
    read = tl.zeros(shape, tl.int32)
    for i in range(count):
        cells = bilinear(position(start, bin_size, grid, bins, first + i, RATIO), extent)
        taken = first + i < grid
        one_weight, one_read = weights_at_tile(tile_begin, cells, taken, taken, SIDE)
        weight += one_weight
        read = read | one_read
    return weight, read


@triton.jit
def over_tile(along_y, along_x):
    """Products [samples, cells] over the tile of what is known [samples, TILE] along each axis."""
    return tl.reshape(along_y[:, :, None] * along_x[:, None, :], [along_y.shape[0], TILE * TILE])


@triton.jit
def add_product(total, upstream, weight, read, PRODUCT: tl.constexpr):
    """Add to `total` [channels, cells] what bins give: upstream [channels, bins] times weights [bins, cells].

    PRODUCT takes bins together in a matrix product, in which a NaN or an infinity spreads over the tile; without it
    there is one bin, and they stay where it reads.
    """
    if PRODUCT is None:
        read = tl.broadcast_to(read > 0, total.shape)
        total += tl.where(read, weight * upstream.to(weight.dtype), 0.0)
    elif upstream.dtype == tl.float32:
        total = tl.dot(upstream, weight, total, input_precision=PRODUCT)
    else:
        # in two terms of the upstream's type, which together are as good as float32
        coarse = weight.to(upstream.dtype)
        rest = (weight - coarse.to(tl.float32)).to(upstream.dtype)
        total = tl.dot(upstream, coarse, total)
        total = tl.dot(upstream, rest, total)
    return total


@triton.jit
def add_upright_box(
    total,
    grad,
    grad_strides,
    rois,
    k,
    here,
    beside,
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
    """Add to `total` [channels, cells] what box k gives the tile, if it is `here`: that of `roi_align`."""
    y_start, y_bin, y_grid, y_usable = rows_of_box(rois, k, cells, level, PH, RATIO, WIDEN)
    x_start, x_bin, x_grid, x_usable = columns_of_box(rois, k, cells, level, PW, RATIO, WIDEN)
    p_first, p_count = bins_at_tile(y_start, y_bin, y_begin, PH)
    q_first, q_count = bins_at_tile(x_start, x_bin, x_begin, PW)
    bins = tl.where(here & y_usable & x_usable, p_count * q_count, 0)
    share = divide(tl.full([], 1, y_grid.dtype), tl.maximum(y_grid * x_grid, 1.0))
    for first in range(0, bins, BLOCK_BINS):
        r = first + tl.arange(0, BLOCK_BINS)
        p, q = p_first + r // q_count, q_first + r % q_count
        upstream = load_upstream(grad, grad_strides, k, p, q, r < bins, c, channels)
        y_weight, y_read = weights_along(y_begin, y_start, y_bin, y_grid, p, height, RATIO)
        x_weight, x_read = weights_along(x_begin, x_start, x_bin, x_grid, q, width, RATIO)
        weight, read = over_tile(y_weight, x_weight * share), over_tile(y_read, x_read)
        total = add_product(total, upstream, weight, read, PRODUCT)
    return total


@triton.jit
def add_boxes(
    total,
    grad,
    grad_strides,
    rois,
    levels,
    beside,
    listed,
    begin,
    end,
    fits,
    y_begin,
    x_begin,
    c,
    channels,
    tile_level,
    tile_image,
    images,
    height,
    width,
    cells,
    LEVELS: tl.constexpr,
    ADD_BOX: tl.constexpr,
    COLUMNS: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """Add to `total` [channels, cells] what the boxes from `begin` to `end` of the tile's list give it."""
    next_listed = tl.load(listed + begin, mask=fits & (begin < end), other=0)
    for number in range(begin, end):
        k = tl.where(fits, next_listed, number).to(tl.int64)
        next_listed = tl.load(listed + number + 1, mask=fits & (number + 1 < end), other=0)  # before it is needed
        level, _ = level_of_box(levels, k, LEVELS)
        image, image_exists = image_of_box(rois, k, images, COLUMNS)
        here = image_exists & (image == tile_image) & (level == tile_level)
        total = ADD_BOX(
            total, grad, grad_strides, rois, k, here, beside, y_begin, x_begin, c, channels, tile_level, height, width,
            cells, PH, PW, RATIO, WIDEN, BLOCK_BINS, PRODUCT,
        )  # fmt: skip
    return total


@triton.jit(do_not_specialize=["boxes", "images", "image_channels", "room", "tiles", "splits"])
def scatter_kernel(
    sums,
    grad_maps,
    grad,
    grad_strides,
    rois,
    levels,
    beside,
    listed,
    counts,
    boxes,
    images,
    channels,
    image_channels,
    heights,
    widths,
    cells,
    first_tiles,
    tiles,
    room,
    splits,
    ADD_BOX: tl.constexpr,
    COLUMNS: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    INDEX: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    program = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    channel_block = program % channel_blocks
    split = program // channel_blocks % splits
    # coarse levels first: their tiles are read by the most boxes
    slot = tiles - 1 - program // channel_blocks // splits
    level, first_tile = level_of(slot, first_tiles)
    height, width = pick_number(heights, level), pick_number(widths, level)
    tiles_x = tiles_along(width)
    tiles_of_image = tiles_along(height) * tiles_x
    image = (slot - first_tile) // tiles_of_image
    tile = (slot - first_tile) % tiles_of_image
    y_begin, x_begin = tile // tiles_x * TILE, tile % tiles_x * TILE
    cell = tl.arange(0, TILE * TILE)
    y_cell, x_cell = y_begin + cell // TILE, x_begin + cell % TILE
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)

    count = tl.load(counts + slot)
    fits = count <= room
    length = tl.where(fits, count, boxes)
    begin, end = length * split // splits, length * (split + 1) // splits
    at_list = listed + slot.to(tl.int64) * room
    zeros = tl.zeros([BLOCK_C, TILE * TILE], rois.dtype.element_ty)
    total = zeros
    if PRODUCT is not None:
        total = add_boxes(
            total, grad, grad_strides, rois, levels, beside, at_list, begin, end, fits, y_begin, x_begin, c, channels,
            level, image, images, height, width, cells, len(heights), ADD_BOX, COLUMNS, PH, PW, RATIO, WIDEN,
            BLOCK_BINS, PRODUCT,
        )  # fmt: skip
    finite = tl.min((tl.abs(total) < float("inf")).to(tl.int32))
    if (finite == 0) | (PRODUCT is None):
        total = add_boxes(
            zeros, grad, grad_strides, rois, levels, beside, at_list, begin, end, fits, y_begin, x_begin, c, channels,
            level, image, images, height, width, cells, len(heights), ADD_BOX, COLUMNS, PH, PW, RATIO, WIDEN, 1, None,
        )  # fmt: skip

    if IS_SPLIT:
        row = (split * tiles + slot).to(tl.int64) * (TILE * TILE) + cell
        tl.store(sums + row[None, :] * channels + c[:, None], total, mask=(c < channels)[:, None])
    else:
        first_plane = image.to(tl.int64) * image_channels
        store_tile(grad_maps, total, level, first_plane, y_cell, x_cell, c, channels, height, width, INDEX)


@triton.jit
def store_tile(grad_maps, total, level, first_plane, y_cell, x_cell, c, channels, height, width, INDEX: tl.constexpr):
    """Store a tile [channels, cells] into the gradient of its map, whose planes follow one another."""
    to = pick(grad_maps, level)
    if width % TILE == 0:  # then the compiler sees that the rows of a tile can be stored at once
        store_cells(to, total, first_plane, 1, y_cell, x_cell, c, channels, height, width // TILE * TILE, INDEX)
    else:
        store_cells(to, total, first_plane, 1, y_cell, x_cell, c, channels, height, width, INDEX)


@triton.jit
def store_cells(to, total, first_plane, planes, y_cell, x_cell, c, channels, height, width, INDEX: tl.constexpr):
    """Store some cells [channels, cells] of planes of which each channel has so many."""
    inside = (c < channels)[:, None] & ((y_cell < height) & (x_cell < width))[None, :]
    at = c.to(INDEX)[:, None] * (planes * height.to(INDEX) * width) + (y_cell.to(INDEX) * width + x_cell)[None, :]
    tl.store(to + first_plane * height * width + at, total.to(to.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["image_channels", "tiles", "splits"])
def add_splits_kernel(
    grad_maps,
    sums,
    channels,
    image_channels,
    heights,
    widths,
    first_tiles,
    tiles,
    splits,
    INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the splits of each tile up in their order, and store."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    slot = tl.program_id(0) // channel_blocks
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    level, first_tile = level_of(slot, first_tiles)
    height, width = pick_number(heights, level), pick_number(widths, level)
    tiles_x = tiles_along(width)
    tiles_of_image = tiles_along(height) * tiles_x
    image, tile = (slot - first_tile) // tiles_of_image, (slot - first_tile) % tiles_of_image
    cell = tl.arange(0, TILE * TILE)
    y_cell, x_cell = tile // tiles_x * TILE + cell // TILE, tile % tiles_x * TILE + cell % TILE
    total = tl.zeros([BLOCK_C, TILE * TILE], sums.dtype.element_ty)
    for split in range(splits):
        row = (split * tiles + slot).to(tl.int64) * (TILE * TILE) + cell
        total += tl.load(sums + row[None, :] * channels + c[:, None], mask=(c < channels)[:, None], other=0.0)
    first_plane = image.to(tl.int64) * image_channels
    store_tile(grad_maps, total, level, first_plane, y_cell, x_cell, c, channels, height, width, INDEX)
