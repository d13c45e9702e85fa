"""Checks of single rows, before anything can be sampled: RA205, RA206 and RA207."""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.doctor.checks.operators import has_other_boxes
from roialign.doctor.evidence import mean, rows_where
from roialign.doctor.findings import Finding, Fix
from roialign.ops.calls import RoICall
from roialign.ops.validate import usable_boxes, usable_indices

_LARGEST = 1e6  # beyond the coordinates of any image


def coordinates(call: RoICall, coverage: Tensor) -> Finding | None:
    """RA205: NaN, infinite or astronomically large coordinates."""
    bad = ~usable_boxes(call.rois, *call.options)
    if not bool(bad.any()):
        return None
    kept, code = call.rois[call.rois.isfinite().all(1)], "boxes = boxes[boxes.isfinite().all(dim=1)]"
    if not bool(usable_boxes(kept, *call.options).all()):
        kept = call.rois[call.rois.abs().amax(1) < _LARGEST]
        code = f"boxes = boxes[boxes.abs().amax(dim=1) < {_LARGEST:g}]"
    fix = _replaced(call, kept, coverage, code)
    evidence = (
        f"{int(bad.sum())} of {len(bad)} boxes cannot be sampled, the first is {_row(call, bad)}. Depending on "
        "sampling_ratio, torchvision returns zeros for such a box or crashes."
    )
    return Finding("RA205", evidence, rows_where(bad), fix)


def image_indices(call: RoICall, coverage: Tensor) -> Finding | None:
    """RA206 and RA207: the index of the image is wrong, or in another column."""
    images = call.input.shape[0]
    bad = ~usable_indices(call.rois, images)
    if not bool(bad.any()):
        return None
    last_first = call.rois[:, [4, 0, 1, 2, 3]]
    if bool(usable_indices(last_first, images).all()) and bool((last_first[:, 3:] > last_first[:, 1:3]).all()):
        fix = _replaced(call, last_first, coverage, "boxes = boxes[:, [4, 0, 1, 2, 3]]  # image index first")
        evidence = f"Column 0 is not an image index (the first such row is {_row(call, bad)}), but the last column is."
        return Finding("RA207", evidence, rows_where(bad), fix)
    index = call.rois[:, 0]
    fix = None
    if float(index.min()) == 1 and float(index.max()) == images:
        moved = torch.cat([call.rois[:, :1] - 1, call.rois[:, 1:]], 1)
        fix = _replaced(call, moved, coverage, "boxes[:, 0] -= 1  # images are counted from 0")
    elif images == 1:
        moved = torch.cat([torch.zeros_like(call.rois[:, :1]), call.rois[:, 1:]], 1)
        fix = _replaced(call, moved, coverage, "boxes[:, 0] = 0  # the batch has one image")
    evidence = (
        f"{int(bad.sum())} of {len(bad)} boxes name an image that the batch of {images} does not have, the first is "
        f"{_row(call, bad)}. torchvision reads foreign memory there."
    )
    decide = None if fix else "Column 0 is the position of the image in the batch, counted from 0."
    return Finding("RA206", evidence, rows_where(bad), fix, decide=decide)


def _replaced(call: RoICall, rois: Tensor, coverage: Tensor, code: str) -> Fix | None:
    """The call with other rows, if all of them can be sampled."""
    fixed = call.with_(rois=rois)
    if not len(rois) or not bool(fixed.usable().all()):
        return None
    return Fix("boxes", None, code, mean(coverage), mean(fixed.coverage()), fixed)


def _row(call: RoICall, mask: Tensor) -> str:
    row = int(mask.nonzero()[0])
    if has_other_boxes(call):
        return f"row {row}"
    return f"boxes[{row}] = [" + ", ".join(f"{value:g}" for value in call.rois[row].tolist()) + "]"
