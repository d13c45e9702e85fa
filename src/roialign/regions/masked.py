"""Pooling under masks: features averaged over the part of each box that is in its mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from roialign.geometry import FeatureGrid
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import perform, refuse
from roialign.ops.reference.sampling import AxisRule, AxisSamples
from roialign.ops.validate.options import MAX_SAMPLING_RATIO
from roialign.regions.levels import LevelRule
from roialign.regions.pool import cells_of, pool

_MOST_SAMPLES = 1 << 10  # along a side of a box that is adaptively sampled, and so along a side of its mask
_MOST_VALUES = 1 << 22  # of masks, at once


class BoxMask(Protocol):
    """The part of a box that is in its mask, at any resolution."""

    def shares(self, rows: int, columns: int) -> Tensor:
        """Of rows x columns equal cells that make up the box, how much of each is in the mask: from 0 to 1."""


class MaskedPooling(NamedTuple):
    """What `pool_masked` returns."""

    features: Tensor
    """[K, C, height, width]; zeros in bins without a part of the mask."""
    coverage: Tensor
    """[K], of the boxes."""
    levels: Tensor
    """int64 [K]"""
    mask_shares: Tensor
    """[K, height, width], how much of each bin is in the mask."""


def pool_masked(
    maps: list[Tensor],
    rois: Tensor,
    output_size_hw: tuple[int, int],
    grids: list[FeatureGrid],
    levels: LevelRule,
    sampling_ratio: int,
    masks: Sequence[BoxMask | None],
) -> MaskedPooling:
    """Pool as `pool` does, but weight each sample with how much of the cell about it is in the box's mask.

    The samples of a box divide it into equal cells, so its mask is asked for at just that resolution, and no mask is
    ever of the size of the image. Without a mask all of the box counts. Computed by `ops.masked_roi_align`.
    """
    _, coverage, chosen = pool(maps, rois, output_size_hw, grids, levels, sampling_ratio, without_features=True)
    height, width = output_size_hw
    features = maps[0].new_zeros(len(rois), maps[0].shape[1], height, width)
    shares = rois.new_zeros(len(rois), height, width)
    for level, (one, grid) in enumerate(zip(maps, grids, strict=True)):
        here = (chosen == level).nonzero().flatten()
        scaled, scale = _scaled(rois[here], grid)
        for (rows, columns), members in _sampled_alike(scaled, scale, output_size_hw, sampling_ratio):
            of_all, boxes = here[members], scaled[members]
            asked = [masks[index] for index in of_all.tolist()]
            size_hw = (height * rows, width * columns)
            each = [torch.ones(size_hw) if mask is None else mask.shares(*size_hw) for mask in asked]
            weights = torch.stack(each).to(rois)
            ratio = rows if rows == columns <= MAX_SAMPLING_RATIO else -1
            features[of_all] = _pool(one, boxes, weights, output_size_hw, scale, ratio)
            shares[of_all] = weights.view(-1, height, rows, width, columns).mean((2, 4))
    return MaskedPooling(features, coverage, chosen, shares)


def _pool(
    features: Tensor, rois: Tensor, weights: Tensor, bins_hw: tuple[int, int], scale: float, ratio: int
) -> Tensor:
    """Of boxes of one map, whose masks have as many values as they have samples."""
    operator, options = OPERATORS["masked_roi_align"], (scale, ratio, True, False)
    found = perform(
        operator.op,
        (features, rois, weights, *bins_hw, *options),
        (features, rois, weights),
        lambda: refuse(operator, features.shape[0], rois, bins_hw, options),
        shown=None,
        off_the_map=None,
    )
    return found[0]


def _scaled(rois: Tensor, grid: FeatureGrid) -> tuple[Tensor, float]:
    """The boxes, and the scale with which an operator that knows no offset reads them where the grid says.

    On a conventional grid they are the boxes as they are, so that positions are those of `roi_align`, to the bit.
    """
    stride_y, stride_x = grid.stride_yx
    if stride_y == stride_x and grid.offset_yx in (None, grid.conventional_offset_yx):
        return rois, 1 / stride_x
    scale_y, shift_y, scale_x, shift_x = cells_of(grid, aligned=True)
    wide = rois[:, 1:].double()
    cells = wide * wide.new_tensor([scale_x, scale_y] * 2) - wide.new_tensor([shift_x, shift_y] * 2) + 0.5
    return torch.cat([rois[:, :1], cells.to(rois.dtype)], 1), 1.0


def _sampled_alike(
    rois: Tensor, scale: float, bins_hw: tuple[int, int], ratio: int
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Which boxes have so many samples in each bin (down, across), some at a time."""
    rule, (height, width) = AxisRule.of_scale(scale, ratio, aligned=True), bins_hw
    _, x1, y1, x2, y2 = rois.detach().unbind(1)
    down = AxisSamples.of_boxes(y1, y2, height, rule).grid
    across = AxisSamples.of_boxes(x1, x2, width, rule).grid
    samples = torch.stack([down, across], 1).clamp(min=1)
    most = max(1, _MOST_SAMPLES // max(bins_hw))
    if ratio <= 0:
        samples[(samples > most).any(1)] = min(most, MAX_SAMPLING_RATIO)
    kinds, kind_of = samples.unique(dim=0, return_inverse=True)
    for kind, (rows, columns) in enumerate(kinds.tolist()):
        members = (kind_of == kind).nonzero().flatten()
        for some in members.split(max(1, _MOST_VALUES // (height * rows * width * columns))):
            yield (rows, columns), some
