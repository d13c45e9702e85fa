"""The kernel that lists, for every tile, the boxes that read it, of operators that say what each box reads.

Volumes are planes one after the other, and so are the maps of a batch: plane z of image n is n * depth + z. Tiles of
TILE x TILE cells are numbered by plane, row and column. `spans` [6, boxes] has the first and the last plane of each
box, row and column that it may read; the last plane of one that reads nothing is -1.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.tiles import list_hits, tiles_along


@triton.jit
def store_span(spans, boxes, k, mask, reads, first_plane, last_plane, top, bottom, left, right):
    to = spans + k
    tl.store(to, first_plane, mask=mask)
    tl.store(to + boxes, tl.where(reads, last_plane, -1), mask=mask)
    tl.store(to + 2 * boxes, top, mask=mask)
    tl.store(to + 3 * boxes, bottom, mask=mask)
    tl.store(to + 4 * boxes, left, mask=mask)
    tl.store(to + 5 * boxes, right, mask=mask)


@triton.jit(do_not_specialize=["boxes", "height", "width", "room"])
def list_spans_kernel(
    listed,
    counts,
    spans,
    boxes,
    height,
    width,
    room,
    BLOCK_TILES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """As `list_boxes_kernel` lists them: in their order, with room for so many, and all counted."""
    tiles_x = tiles_along(width)
    tiles = tiles_along(height) * tiles_x
    programs_per_plane = tl.cdiv(tiles, BLOCK_TILES)
    plane = tl.program_id(0) // programs_per_plane
    tile = tl.program_id(0) % programs_per_plane * BLOCK_TILES + tl.arange(0, BLOCK_TILES)
    y, x = tile // tiles_x, tile % tiles_x
    slot = plane.to(tl.int64) * tiles + tile

    count = tl.zeros([BLOCK_TILES], tl.int32)
    for begin in range(0, boxes, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        at = spans + tl.minimum(k, boxes - 1)  # past the last box its neighbour is read, and not listed
        here = (k < boxes) & (tl.load(at) <= plane) & (tl.load(at + boxes) >= plane)
        if tl.max(here.to(tl.int32), 0) > 0:
            top, bottom = tl.load(at + 2 * boxes), tl.load(at + 3 * boxes)
            left, right = tl.load(at + 4 * boxes), tl.load(at + 5 * boxes)
            count += list_hits(listed, slot, count, room, k, here, tile, tiles, y, x, top, bottom, left, right)
    tl.store(counts + slot, count, mask=tile < tiles)
