"""The kernel that lists, for every tile of the maps, the boxes that read it, in their order.

Tiles of TILE x TILE cells are numbered by level, image, row and column. A tile has room for `room` boxes in `listed`;
`counts` says how many there are, also where they do not fit. These are upright boxes, of samples, on maps of any number
of levels; for all others see `spans.py`.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import position
from roialign.ops.triton.kernels.boxes import columns_of_box, pick_number, rows_of_box

TILE = tl.constexpr(8)


@triton.jit
def tiles_along(extent):
    return (extent + TILE - 1) // TILE


@triton.jit
def level_of(number, first_of_levels):
    """The level whose numbers begin at or before `number`, and where they begin."""
    level = number * 0
    for other in tl.static_range(1, len(first_of_levels)):
        level += (number >= (first_of_levels[other] >> 4)).to(tl.int32)
    return level, pick_number(first_of_levels, level)


@triton.jit
def cells_read(start, bin_size, grid, extent, POOLED: tl.constexpr, RATIO: tl.constexpr):
    """The first and the last cell that a box may read along an axis; the last is -1 where it reads none."""
    nought = (grid * 0.0).to(tl.int32)
    one_end = position(start, bin_size, grid, nought, nought, RATIO)
    other_end = position(start, bin_size, grid, nought + (POOLED - 1), tl.maximum(grid - 1.0, 0.0), RATIO)
    return cells_between(tl.minimum(one_end, other_end), tl.maximum(one_end, other_end), extent, grid > 0.0)


@triton.jit
def cells_between(low, high, extent, reads):
    """The first and the last cell that samples from `low` to `high` may read; the last is -1 where they read none."""
    rounding = 1e-6 * (tl.abs(low) + tl.abs(high))
    low, high = low - rounding, high + rounding
    last_cell = extent - 1.0
    first = tl.minimum(tl.maximum(tl.floor(low), 0.0), last_cell).to(tl.int32)
    last = tl.minimum(tl.maximum(tl.floor(high) + 1.0, 0.0), last_cell).to(tl.int32)
    return first, tl.where(reads & (high >= -1.0) & (low <= extent), last, -1)


@triton.jit
def list_hits(listed, slot, count, room, k, here, tile, tiles, y, x, top, bottom, left, right):
    """Add to the lists of tiles those of boxes k that read them, as the boxes' first and last cells say.

    Gives how many that are. `count` is how many were there before, `here` which boxes count.
    """
    inside_y = (y[:, None] >= (top // TILE)[None, :]) & (y[:, None] <= (bottom // TILE)[None, :])
    inside_x = (x[:, None] >= (left // TILE)[None, :]) & (x[:, None] <= (right // TILE)[None, :])
    hit = inside_y & inside_x & here[None, :]
    ones = hit.to(tl.int32)
    place = tl.cumsum(ones, 1) - ones + count[:, None]
    fits = hit & (place < room) & (tile < tiles)[:, None]
    tl.store(listed + slot[:, None] * room + place, tl.broadcast_to(k[None, :], place.shape), mask=fits)
    return tl.sum(ones, 1)


@triton.jit(do_not_specialize=["boxes", "images", "room"])
def list_boxes_kernel(
    listed,
    counts,
    rois,
    levels,
    boxes,
    images,
    heights,
    widths,
    cells,
    first_programs,
    first_tiles,
    room,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RATIO: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    level, first_program = level_of(tl.program_id(0), first_programs)
    height, width = pick_number(heights, level), pick_number(widths, level)
    tiles_x = tiles_along(width)
    tiles = tiles_along(height) * tiles_x
    programs_per_image = tl.cdiv(tiles, BLOCK_TILES)
    number = tl.program_id(0) - first_program
    image = number // programs_per_image
    tile = number % programs_per_image * BLOCK_TILES + tl.arange(0, BLOCK_TILES)
    y, x = tile // tiles_x, tile % tiles_x
    slot = (pick_number(first_tiles, level) + image * tiles + tile).to(tl.int64)

    count = tl.zeros([BLOCK_TILES], tl.int32)
    for begin in range(0, boxes, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        # past the last box its neighbour is read, and not listed
        row = tl.minimum(k, boxes - 1).to(tl.int64)
        here = (k < boxes) & (tl.load(rois + row * 5) == image)
        if levels is not None:
            here = here & (tl.load(levels + row) == level)
        if tl.max(here.to(tl.int32), 0) > 0:
            y_start, y_bin, y_grid, y_usable = rows_of_box(rois, row, cells, level, PH, RATIO, WIDEN)
            x_start, x_bin, x_grid, x_usable = columns_of_box(rois, row, cells, level, PW, RATIO, WIDEN)
            top, bottom = cells_read(y_start, y_bin, y_grid, height, PH, RATIO)
            left, right = cells_read(x_start, x_bin, x_grid, width, PW, RATIO)
            here = here & y_usable & x_usable & (bottom >= 0) & (right >= 0)
            count += list_hits(listed, slot, count, room, k, here, tile, tiles, y, x, top, bottom, left, right)
    tl.store(counts + slot, count, mask=tile < tiles)
