"""The kernels that list, for every tile, the boxes that read it, of operators that say what each box reads.

Volumes are planes one after the other, and so are the maps of a batch: plane z of image n is n * depth + z. Tiles of
TILE x TILE cells are numbered by plane, row and column. `spans` [6, boxes] has the first and the last plane of each
box, row and column that it may read; the last plane of one that reads nothing is -1.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.boxes import image_of_box
from roialign.ops.triton.kernels.taps import axis_of_box, cells_of_box
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
