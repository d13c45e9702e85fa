"""What each operator is in ONNX: RoiAlign or MaxRoiPool with operators of torch around it, or nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from roialign.errors import ExportError
from roialign.ops.onnx.coverage import coverage_of
from roialign.ops.onnx.nodes import Node
from roialign.ops.reference.sampling import AxisRule

_APART = "Export the parts before and after it, and pool between them in Python."
_NOT_IN_ONNX = {
    "masked_roi_align": f"its RoiAlign cannot weight samples. {_APART}",
    "paste_masks": "none of its operators pastes masks into images. Return masks and boxes, and paste them afterwards.",
    "prroi_pool": (
        "its RoiAlign averages samples and integrates nothing. roi_align with aligned=True and sampling_ratio=4 "
        "comes close, in training, too."
    ),
    "ps_roi_align": f"its RoiAlign reads all channels into every bin. {_APART}",
    "ps_roi_pool": f"its MaxRoiPool takes the largest values, of all channels. {_APART}",
    "roi_align_3d": f"its RoiAlign pools maps of two axes. {_APART}",
    "roi_align_rotated": f"its RoiAlign only has upright boxes. {_APART}",
}
"""Why an operator cannot be exported, and what to do, by name."""


def is_exporting() -> bool:
    """Whether the program is within torch.onnx.export."""
    return torch.onnx.is_in_onnx_export()


is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]  # else torch's compiler takes it for False


def refuse(name: str, *_: Any) -> NoReturn:
    """Raise for an operator that ONNX has nothing for."""
    raise ExportError(f"RA601: expected operators that ONNX has; got {name}: {_NOT_IN_ONNX[name]}")


def _roi_align(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    rule = AxisRule.of_scale(scale, ratio, aligned)
    return _on_grid(input, rois, (ph, pw), (rule, rule)), _unknown(rois)


def _roi_align_max(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, ratio: int, aligned: bool, corners: bool
) -> tuple[Tensor, Tensor]:
    rule = AxisRule.of_scale(scale, ratio, aligned)
    if corners:
        return _on_grid(input, rois, (ph, pw), (rule, rule), "max"), _unknown(rois)
    if ratio <= 0:
        raise ExportError(
            'RA601: expected mode="max" with a sampling_ratio above zero, or with compat="onnx"; got '
            f"sampling_ratio={ratio}. ONNX's maximum is of products of cells and weights, not of samples, and samples "
            "can only be pooled one by one where their number is known. Use sampling_ratio=2."
        )
    rule = rule._replace(sampling_ratio=1)
    samples = _on_grid(input, rois, (ph * ratio, pw * ratio), (rule, rule))  # each a bin of its own
    return F.max_pool2d(samples, ratio), _unknown(rois)


def _on_grid(
    input: Tensor, rois: Tensor, bins: tuple[int, int], rules_yx: tuple[AxisRule, AxisRule], mode: str = "avg"
) -> Tensor:
    """RoiAlign on a grid that may differ between the axes, which it cannot say of itself: it is put into the boxes."""
    rule_y, rule_x = rules_yx
    widen, ratio = rule_y.widen, rule_y.sampling_ratio
    of_cell = 0.0 if widen else 0.5  # what RoiAlign subtracts
    boxes, scale = rois[:, 1:], 1.0
    if rule_y == rule_x and rule_y.shift == of_cell and _is_exact(rule_y.scale, rois.dtype):
        scale = rule_y.scale
    else:
        scales, shifts = ((x, y, x, y) for x, y in zip(rule_x[:2], rule_y[:2], strict=True))
        boxes = boxes * boxes.new_tensor(scales)
        if any(shift != of_cell for shift in shifts):
            boxes = boxes - boxes.new_tensor([shift - of_cell for shift in shifts])
    if ratio <= 0 and not widen:  # onnxruntime fails on boxes that end before they begin, which have no samples
        lows, highs = boxes[:, :2], boxes[:, 2:]
        boxes = torch.cat([lows, torch.maximum(lows, highs)], 1)
    images = rois[:, 0].to(torch.int64)
    return Node.roi_align(bins, scale, ratio, not widen, mode).of(input, boxes, images)


def _unknown(rois: Tensor) -> Tensor:
    """The coverage of operators whose public functions return none: NaN."""
    return rois.new_full((rois.shape[0],), torch.nan)


def _is_exact(scale: float, dtype: torch.dtype) -> bool:
    """Whether the attribute `spatial_scale`, a float32, is the scale that boxes of this type are multiplied by."""
    return dtype == torch.float32 or ctypes.c_float(scale).value == scale


def _multi_scale_roi_align(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    ph: int,
    pw: int,
    ratio: int,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    axes = [AxisRule(scale, shift, ratio, widen) for scale, shift in zip(cells[::2], cells[1::2], strict=True)]
    of_levels = list(zip(inputs, zip(axes[::2], axes[1::2], strict=True), strict=True))
    coverage = coverage_of(inputs, rois, levels, cells, (ph, pw), ratio, widen)
    if len(of_levels) == 1:
        ((one, rules_yx),) = of_levels
        return _on_grid(one, rois, (ph, pw), rules_yx), coverage
    rows = [(levels == level).nonzero().squeeze(1) for level in range(len(of_levels))]
    pooled = [
        _on_grid(one, rois.index_select(0, members), (ph, pw), rules_yx)
        for (one, rules_yx), members in zip(of_levels, rows, strict=True)
    ]
    as_given = torch.cat(rows).argsort()
    return torch.cat(pooled).index_select(0, as_given), coverage


def _roi_pool(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`legacy` is not looked at: NaN and minus infinity, which it is about, are as the runtime has them."""
    if not _is_exact(scale, rois.dtype):
        rois, scale = torch.cat([rois[:, :1], rois[:, 1:] * scale], 1), 1.0
    pooled = Node.max_roi_pool((ph, pw), scale).of(input, rois)
    return pooled, _unknown(rois), torch.full_like(pooled, -1, dtype=torch.int32)


def _of(name: str) -> Any:
    return getattr(torch.ops.roialign, name).default


EXPORTED: dict[Any, Callable[..., Sequence[Tensor]]] = {
    _of("roi_align"): _roi_align,
    _of("roi_align_max"): _roi_align_max,
    _of("multi_scale_roi_align"): _multi_scale_roi_align,
    _of("roi_pool"): _roi_pool,
    **{_of(name): partial(refuse, name) for name in _NOT_IN_ONNX},
}
"""What stands for each operator, by the operator, with its arguments."""
