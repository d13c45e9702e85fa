"""Which values of boxes an RoI operator accepts: finite coordinates, and indices of images of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roialign import errors
from roialign.ops.validate.boxes import BOXES, BoxForm
from roialign.ops.validate.words import describe, row_text

MAX_ADAPTIVE_GRID = 1 << 24  # more samples than this cannot be counted in float32
MAX_MASKED_GRID = 1 << 16  # a mask is looked at for every sample, also off the map
MAX_ROUNDED_CELL = 1 << 30  # boxes that are rounded to cells are counted in int32 by torchvision


def can_be_sampled(
    rois: Tensor,
    cells_xyxy: Tensor,
    pooled_hw: Sequence[int],
    sampling_ratio: int,
    widen: bool,
    most: int = MAX_ADAPTIVE_GRID,
) -> Tensor:
    """Rows [K] of `rois` whose coordinates are finite and, under adaptive sampling, can be counted.

    Args:
        rois: [K, 1 + columns].
        cells_xyxy: their sides in cells, lows then highs, x first, computed in the kernels' order: both draw one line.
        pooled_hw: bins along each axis, x last.
        sampling_ratio: samples in each bin; 0 or less takes ceil(bin size in cells).
        widen: whether boxes are widened to one cell.
        most: samples that can be counted.
    """
    axes = len(pooled_hw)
    sizes = (cells_xyxy[:, axes:] - cells_xyxy[:, :axes]).clamp(min=1.0 if widen else -math.inf)
    grids = (sizes / sizes.new_tensor(pooled_hw[::-1])).ceil().abs()
    countable = grids <= most if sampling_ratio <= 0 else grids.isfinite()
    return rois[:, 1:].detach().isfinite().all(1) & cells_xyxy.isfinite().all(1) & countable.all(1)


def usable_indices(rois: Tensor, images: int) -> Tensor:
    """Rows [K] of `rois` whose first column is the index of an image of the batch."""
    index = rois[:, 0].detach()
    return (index >= 0) & (index < images) & (index == index.floor())


def check_rows(images: int, rois: Tensor, usable: Tensor, form: BoxForm = BOXES) -> None:
    """Raise for the first row of `rois` [K, 1 + columns] that is not usable or names no image; waits for the values."""
    name, unusable = form.name, ~usable
    if bool(unusable.any()):
        row = int(unusable.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates that adaptive sampling can count; got {int(unusable.sum())} "
            f"unusable rows of {len(rois)}, the first {name}[{row}] = {row_text(rois, row)}. Look at what made them (a "
            f"division by zero, an exploding regression), or drop them: {name}[{name}.isfinite().all(dim=1)]."
        )
    outside = ~usable_indices(rois, images)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        range_text = f"a whole number from 0 to {images - 1}" if images else "but the batch has no images"
        raise errors.BatchIndexError(
            f"RA206: expected a batch index in column 0, {range_text}; got {int(outside.sum())} of {len(rois)} rows "
            f"with another value, the first {name}[{row}] = {row_text(rois, row)}. Column 0 is the batch index, then "
            f"{form.sides}; {name} of one image can be passed as a list: [{name}]."
        )


def check_levels(levels: Tensor, count: int, rois: Tensor) -> None:
    """Raise unless `levels` [K] names one of `count` levels for each box; reads the values, so it waits for them."""
    if levels.dtype != torch.int64 or levels.shape != rois.shape[:1] or levels.device != rois.device:
        raise errors.LevelError(
            f"RA401: expected the level of each box, int64 [{len(rois)}] on {rois.device}; got {describe(levels)} on "
            f"{levels.device}. Use levels.long()."
        )
    outside = (levels < 0) | (levels >= count)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise errors.LevelError(
            f"RA401: expected levels from 0 to {count - 1}, one for each feature map; got {int(outside.sum())} rows "
            f"with another value, the first levels[{row}] = {int(levels[row])}. Clamp them: levels.clamp(0, "
            f"{count - 1})."
        )
