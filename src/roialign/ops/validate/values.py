"""Which values of boxes an RoI operator accepts: finite coordinates, and indices of images of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign import errors
from roialign.ops.validate.boxes import BOXES, BOXES_3D, ROTATED, SEGMENTS, BoxForm
from roialign.ops.validate.words import describe, row_text

MAX_ADAPTIVE_GRID = 1 << 24  # more samples than this cannot be counted in float32
MAX_MASKED_GRID = 1 << 16  # a mask is looked at for every sample, also off the map
MAX_ROUNDED_CELL = 1 << 30  # boxes that are rounded to cells are counted in int32 by torchvision


def usable_boxes(
    rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Rows [K] of `rois` whose coordinates are finite and, under adaptive sampling, can be counted."""
    cells_xyxy = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    return _can_be_sampled(rois, cells_xyxy, (pooled_height, pooled_width), sampling_ratio, not aligned)


def usable_rotated_boxes(
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    *_angles: bool,
) -> Tensor:
    """Rows [K] of `rois` [K, 6] whose numbers are finite and, under adaptive sampling, can be counted."""
    centres = rois[:, 1:3].detach() * spatial_scale - (0.5 if aligned else 0.0)
    sizes = (rois[:, 3:5].detach() * spatial_scale).clamp(min=-math.inf if aligned else 1.0)
    grids = (sizes / sizes.new_tensor([pooled_width, pooled_height])).ceil().abs()
    countable = grids <= MAX_ADAPTIVE_GRID if sampling_ratio <= 0 else grids.isfinite()
    return rois[:, 1:].detach().isfinite().all(1) & centres.isfinite().all(1) & countable.all(1)


def usable_indices(rois: Tensor, images: int) -> Tensor:
    """Rows [K] of `rois` whose first column is the index of an image of the batch."""
    index = rois[:, 0].detach()
    return (index >= 0) & (index < images) & (index == index.floor())


def check_values(images: int, rois: Tensor, *options: Any) -> None:
    """Raise for the first row of `rois` [K, 5] that cannot be sampled; reads the values, so it waits for them.

    `options` are pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned.
    """
    _raise_for_rows(images, rois, usable_boxes(rois, *options))


def check_values_of_cells(images: int, rois: Tensor, spatial_scale: float) -> None:
    """`check_values` for operators that round boxes to cells, which take no samples."""
    cells_xyxy = (rois[:, 1:].detach() * spatial_scale).double()
    _raise_for_rows(images, rois, (cells_xyxy.abs() < MAX_ROUNDED_CELL + 0.5).all(1))


def check_values_of_segments(images: int, rois: Tensor, *options: Any) -> None:
    """`check_values` for segments that are pooled as the columns of boxes [K, 5]."""
    _raise_for_rows(images, rois[:, [0, 1, 3]], usable_boxes(rois, *options), SEGMENTS)


def check_rotated_values(images: int, rois: Tensor, *options: Any) -> None:
    """`check_values` for rois [K, 6]; `options` are those of the registered operator."""
    _raise_for_rows(images, rois, usable_rotated_boxes(rois, *options), ROTATED)


def check_values_3d(
    images: int,
    rois: Tensor,
    pooled_dhw: Sequence[int],
    scales_zyx: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """`check_values` for boxes of volumes, [K, 7]."""
    scales = rois.new_tensor([*scales_zyx[::-1]] * 2)
    cells = rois[:, 1:].detach() * scales - (0.5 if aligned else 0.0)
    _raise_for_rows(images, rois, _can_be_sampled(rois, cells, pooled_dhw, sampling_ratio, not aligned), BOXES_3D)


def check_masked_values(
    images: int,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    _masks_in_image: bool,
) -> None:
    """`check_values` for boxes with masks."""
    cells_xyxy = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    size_hw = (pooled_height, pooled_width)
    usable = _can_be_sampled(rois, cells_xyxy, size_hw, sampling_ratio, not aligned, most=MAX_MASKED_GRID)
    _raise_for_rows(images, rois, usable)


def check_values_of_levels(
    images: int,
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    pooled_hw: Sequence[int],
    sampling_ratio: int,
    widen: bool,
) -> None:
    """`check_values` for boxes of several maps; `cells` are as `ops.multi_scale_roi_align` takes them."""
    scale_y, shift_y, scale_x, shift_x = rois.new_tensor(cells).view(-1, 4)[levels].unbind(1)
    scales, shifts = (torch.stack([x, y, x, y], 1) for x, y in ((scale_x, scale_y), (shift_x, shift_y)))
    cells_xyxy = rois[:, 1:].detach() * scales - shifts
    _raise_for_rows(images, rois, _can_be_sampled(rois, cells_xyxy, pooled_hw, sampling_ratio, widen))


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
            f"with another, the first levels[{row}] = {int(levels[row])}. Clamp them: levels.clamp(0, {count - 1})."
        )


def _can_be_sampled(
    rois: Tensor,
    cells_xyxy: Tensor,
    pooled_hw: Sequence[int],
    sampling_ratio: int,
    widen: bool,
    most: int = MAX_ADAPTIVE_GRID,
) -> Tensor:
    """Rows [K]; `cells_xyxy` were computed in the kernels' order, so that both draw one line."""
    axes = len(pooled_hw)
    sizes = (cells_xyxy[:, axes:] - cells_xyxy[:, :axes]).clamp(min=1.0 if widen else -math.inf)
    grids = (sizes / sizes.new_tensor(pooled_hw[::-1])).ceil().abs()
    countable = grids <= most if sampling_ratio <= 0 else grids.isfinite()
    return rois[:, 1:].detach().isfinite().all(1) & cells_xyxy.isfinite().all(1) & countable.all(1)


def _raise_for_rows(images: int, rois: Tensor, usable: Tensor, form: BoxForm = BOXES) -> None:
    """Raise for the first row of `rois` [K, 1 + columns] that is not usable or names no image."""
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
            f"RA206: expected in column 0 the index of an image, {range_text}; got "
            f"{int(outside.sum())} rows of {len(rois)} with another, the first {name}[{row}] = {row_text(rois, row)}. "
            f"Column 0 is the image, then {form.sides}; {name} of one image can be passed as a list: [{name}]."
        )
