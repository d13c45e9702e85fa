"""The definitions of the operators in pure PyTorch, forward only: the specification of the kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roialign.ops.reference.calls import Arguments as Arguments
from roialign.ops.reference.calls import Definition as Definition
from roialign.ops.reference.calls import forward as forward
from roialign.ops.reference.calls import gradient_to_boxes as gradient_to_boxes
from roialign.ops.reference.calls import gradient_to_features as gradient_to_features
from roialign.ops.reference.masked_roi_align import masked_roi_align
from roialign.ops.reference.roi_align import on_grid, ps_roi_align, roi_align, roi_align_max
from roialign.ops.reference.roi_align_rotated import roi_align_rotated
from roialign.ops.reference.sampling import AxisRule, AxisSamples
from roialign.ops.reference.separable import prroi_pool, roi_align_3d
from roialign.ops.reference.whole_cells import ps_roi_pool, roi_pool


def _grid(low: Tensor, high: Tensor, bins: int, rule: AxisRule) -> Tensor:
    return AxisSamples.of_boxes(low, high, bins, rule).grid


def _of_upright(
    boxes: Tensor, height: int, width: int, scale: float, ratio: int, aligned: bool, *_: Any
) -> list[Tensor]:
    rule = AxisRule.of_scale(scale, ratio, aligned)
    return [_grid(boxes[:, axis], boxes[:, 2 + axis], bins, rule) for axis, bins in ((1, height), (0, width))]


def _on_grid(boxes: Tensor, height: int, width: int, *options: Any) -> list[Tensor]:
    scale_y, _, scale_x, _, ratio, widen = options
    rules = AxisRule(scale_y, 0.0, ratio, widen), AxisRule(scale_x, 0.0, ratio, widen)
    sides = zip((1, 0), (height, width), rules, strict=True)
    return [_grid(boxes[:, axis], boxes[:, 2 + axis], bins, rule) for axis, bins, rule in sides]


def _of_volumes(boxes: Tensor, *arguments: Any) -> list[Tensor]:
    (*bins, _, _, _, ratio, aligned), scales = arguments, arguments[3:6]
    rules = [AxisRule.of_scale(scale, ratio, aligned) for scale in scales]
    sides = zip((2, 1, 0), bins, rules, strict=True)
    return [_grid(boxes[:, axis], boxes[:, 3 + axis], count, rule) for axis, count, rule in sides]


def _of_rotated(
    boxes: Tensor, height: int, width: int, scale: float, ratio: int, aligned: bool, *_: Any
) -> list[Tensor]:
    rule = AxisRule(scale, 0.0, ratio, not aligned)
    return [_grid(0 * side, side, bins, rule) for side, bins in ((boxes[:, 3], height), (boxes[:, 2], width))]


def _of_cells(boxes: Tensor, height: int, width: int, scale: float, *_: Any) -> list[Tensor]:
    sides = (boxes[:, 2:] - boxes[:, :2]).abs() * scale
    return [sides[:, 1] / height + 2, sides[:, 0] / width + 2]


ROI_ALIGN = Definition(roi_align, _of_upright)
ON_GRID = Definition(on_grid, _on_grid)
ROI_ALIGN_MAX = Definition(roi_align_max, _of_upright)
PS_ROI_ALIGN = Definition(ps_roi_align, lambda boxes, *given: _of_upright(boxes, *given[:4], True), own_channels=True)
ROI_ALIGN_ROTATED = Definition(roi_align_rotated, _of_rotated)
MASKED_ROI_ALIGN = Definition(masked_roi_align, _of_upright)
ROI_ALIGN_3D = Definition(roi_align_3d, _of_volumes, separable=True)
PRROI_POOL = Definition(prroi_pool, _of_cells, separable=True)
ROI_POOL = Definition(roi_pool, _of_cells)
PS_ROI_POOL = Definition(ps_roi_pool, _of_cells, own_channels=True)
