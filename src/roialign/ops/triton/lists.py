"""The boxes that read each tile of the maps, listed on the GPU before a backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.triton.kernels import spans, tiles
from roialign.ops.triton.launch import Launcher, blocks_of, on_device_of
from roialign.ops.triton.maps import Numbers, Rule, begins_of, cells_of_boxes, tiles_of_image, uniform

TILES_OF_LIST, BOXES_OF_LIST = 4, 512
LISTED_BOXES = 1 << 23  # of all tiles together: 32 MB

_list_boxes = Launcher(tiles.list_boxes_kernel, num_warps=4)
_list_spans = Launcher(spans.list_spans_kernel, num_warps=4)


class Tiles(NamedTuple):
    """The tiles of some maps, and the boxes that read each, as `kernels/tiles.py` lists them."""

    listed: Tensor
    counts: Tensor
    heights: Numbers
    """`uniform`, as are the two that follow."""
    widths: Numbers
    first_tiles: Numbers
    number: int
    """Of all tiles."""
    room: int
    images: int
    """Of volumes, planes."""


def list_boxes(
    rois: Tensor, rule: Rule, images: int, heights: Sequence[int], widths: Sequence[int], pooled_hw: tuple[int, ...]
) -> Tiles:
    """By what upright boxes read of maps, which their samples say."""
    cells, of_rule = cells_of_boxes(rois, rule)
    options = (*pooled_hw, max(rule.sampling_ratio, 0), rule.widen)
    of_images = tiles_of_image(heights, widths)
    found = _tiles(rois, len(rois), images, heights, widths)
    first_programs, programs = begins_of([images * blocks_of(one, TILES_OF_LIST) for one in of_images])
    with on_device_of(rois):
        _list_boxes(
            *(programs, (options, of_rule, len(heights)), found.listed, found.counts, rois, rule.levels),
            *(len(rois), images, found.heights, found.widths, cells, first_programs, found.first_tiles, found.room),
            *(*options, TILES_OF_LIST, BOXES_OF_LIST),
        )
    return found


def list_spans(spans_of_boxes: Tensor, planes: int, height: int, width: int) -> Tiles:
    """By the spans [6, boxes] that an operator's own kernel wrote down, as `kernels/spans.py` says."""
    boxes, (tiles_of_plane,) = spans_of_boxes.shape[1], tiles_of_image([height], [width])
    found = _tiles(spans_of_boxes, boxes, planes, [height], [width])
    with on_device_of(spans_of_boxes):
        _list_spans(
            *(planes * blocks_of(tiles_of_plane, TILES_OF_LIST), (spans_of_boxes.get_device(),)),
            *(found.listed, found.counts, spans_of_boxes),
            *(boxes, height, width, found.room, TILES_OF_LIST, BOXES_OF_LIST),
        )
    return found


def spans_for(rois: Tensor) -> Tensor:
    """Where a kernel writes down what each box may read."""
    return rois.new_empty((6, len(rois)), dtype=torch.int32)


def _tiles(like: Tensor, boxes: int, images: int, heights: Sequence[int], widths: Sequence[int]) -> Tiles:
    """The lists, still to be filled."""
    first_tiles, count = begins_of([images * one for one in tiles_of_image(heights, widths)])
    room = max(1, min(boxes, LISTED_BOXES // count))
    listed = like.new_empty(count * room, dtype=torch.int32)
    counts = like.new_empty(count, dtype=torch.int32)
    return Tiles(listed, counts, uniform(heights), uniform(widths), first_tiles, count, room, images)
