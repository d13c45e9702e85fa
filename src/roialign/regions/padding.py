"""Which boxes the padding of a batch reaches: cells near it see it, so that what else is in the batch changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roialign.backbones import BackboneTrace
from roialign.backbones.sizes import are_treated_alike
from roialign.errors import FeatureMapError
from roialign.geometry import FeatureGrid
from roialign.ops import notice

REACHED = 0.5
"""Receptive fields: the padding reaches boxes that are nearer to it, for a cell sees half of one on either side."""


def distances(
    rois: Tensor,
    levels: Tensor,
    traced: BackboneTrace,
    grids: dict[str, FeatureGrid],
    filled_hw: Sequence[tuple[int, int]],
    entered_hw: tuple[int, int],
) -> Tensor:
    """How far the cells that each roi [K, 5] reads are from the padding of its image, in receptive fields [K].

    Images of size `entered_hw` show something down to and across `filled_hw`, and were padded from there on. Infinite
    where nothing was padded; 0 where each cell sees the whole image, and where the backbone does something else at the
    size of the batch than at that of the image; negative within the padding.
    """
    result = rois.new_full((len(rois),), math.inf)
    images = rois[:, 0].long()
    for axis in (0, 1):
        ends = rois.new_tensor([size[axis] for size in filled_hw])[images]
        is_padded = ends < entered_hw[axis]
        for level, (name, grid) in enumerate(grids.items()):
            far = away(rois[:, 4 - axis], ends, grid, axis, traced.whole_image[name][axis])
            result = result.minimum(far.where(is_padded & (levels == level), math.inf))
    alike = [size_hw == entered_hw or are_treated_alike(traced, size_hw, entered_hw) for size_hw in filled_hw]
    return result.clamp(max=0).where(~rois.new_tensor(alike, dtype=torch.bool)[images], result)


def away(last_edges: Tensor, ends: Tensor, grid: FeatureGrid, axis: int, sees_all: bool) -> Tensor:
    """The same along one axis, of one map, for boxes that end at `last_edges` in images that end at `ends`."""
    field_hw, used_yx = grid.receptive_field_hw, grid.offset_yx or grid.conventional_offset_yx
    if sees_all or field_hw is None or not field_hw[axis]:
        return ends.new_zeros(ends.shape)
    stride = grid.stride_yx[axis]
    cells = ((last_edges - used_yx[axis]) / stride).ceil().clamp(0, grid.size_hw[axis] - 1)
    known_yx = grid.receptive_field_centre_yx or grid.structural_offset_yx
    if known_yx is not None:
        centre = known_yx[axis]
    else:
        centre = used_yx[axis] + stride  # where it is at most: less than a stride from the conventional one
    return (ends - centre - cells * stride) / field_hw[axis]


def say_which_are_reached(
    padding_distance: Tensor, filled_hw: Sequence[tuple[int, int]], entered_hw: tuple[int, int]
) -> None:
    """RA312, once for each line of code: the share of boxes that the padding reaches."""
    reached, boxes = int((padding_distance < REACHED).sum()), len(padding_distance)
    if not reached:
        return
    height, width = entered_hw
    sizes = len(set(filled_hw))
    notice.say(
        lambda: (
            f"RA312: the padding of the batch reaches {reached} of {boxes} boxes ({100 * reached / boxes:.0f} %): "
            f"{len(filled_hw)} images of {sizes} sizes were padded to {height} x {width}, so these boxes' features "
            'depend on what else is in the batch. Leave out batch="pad", which runs images of one size together and '
            f"others apart; or use only boxes whose padding_distance is at least {REACHED}."
        ),
        FeatureMapError,
    )
