"""Checks of single rows, before anything can be sampled: RA205, RA206, RA207, RA208 and RA214."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roialign.doctor.checks.operators import has_other_boxes
from roialign.doctor.evidence import call_line, mean, rows_where
from roialign.doctor.findings import Finding, Fix
from roialign.doctor.lines import masked_later, paste, rows_of
from roialign.ops.calls import RoICall
from roialign.ops.validate import usable_indices

_LARGEST = 1e6  # beyond the coordinates of any image
_NOT_WHOLE = 0.5  # of the angles of rotated boxes, at least


def coordinates(call: RoICall, coverage: Tensor) -> Finding | None:
    """RA205: NaN, infinite or astronomically large coordinates."""
    bad = ~call.can_be_sampled()
    if not bool(bad.any()):
        return None
    kept = call.rois.where(call.rois.abs() < _LARGEST, 0)
    only_nan = bool((call.rois.isnan() | (call.rois.abs() < _LARGEST)).all())
    code = paste(call, "b.nan_to_num()" if only_nan else "b.where(b.abs() < 1e6, 0)")
    rows = rows_where(bad)
    evidence = (
        f"{int(bad.sum())} of {len(bad)} boxes cannot be sampled ({rows_of(rows)}), the first is {_row(call, bad)}. "
        "Depending on sampling_ratio, torchvision returns zeros for such a box or crashes."
    )
    decide = f"Look for what made them: a division by zero, a missing object. {masked_later(rows)}"
    return Finding("RA205", evidence, rows, _replaced(call, kept, coverage, code), decide=decide)


def image_indices(call: RoICall, coverage: Tensor) -> Finding | None:
    """RA206, RA207, RA208 and RA214: column 0 is not the index of an image."""
    images = call.input.shape[0]
    bad = ~usable_indices(call.rois, images)
    if not bool(bad.any()):
        return None
    if call.lists is not None:
        evidence = f"There are {call.lists} lists of boxes and {images} images; torchvision reads out of bounds there."
        decide = "If all boxes belong to one image, pass [torch.cat(boxes)]."
        return Finding("RA208", evidence, rows_where(bad), decide=decide)
    if has_other_boxes(call):
        return _no_such_image(call, bad, coverage)
    return (
        _index_last(call, bad, coverage)
        or _score(call, bad, coverage)
        or _rotated(call, bad, coverage)
        or (_no_such_image(call, bad, coverage))
    )


def _index_last(call: RoICall, bad: Tensor, coverage: Tensor) -> Finding | None:
    """RA207: x1, y1, x2, y2, index."""
    last_first = call.rois[:, [4, 0, 1, 2, 3]]
    if not bool(usable_indices(last_first, call.input.shape[0]).all()) or not _in_order(last_first[:, 1:]):
        return None
    fix = _replaced(call, last_first, coverage, "boxes = boxes[:, [4, 0, 1, 2, 3]]  # batch index first")
    evidence = f"Column 0 is not a batch index (the first such row is {_row(call, bad)}), but the last column is."
    return Finding("RA207", evidence, rows_where(bad), fix)


def _score(call: RoICall, bad: Tensor, coverage: Tensor) -> Finding | None:
    """RA207: a column of scores, first or last, in place of that with the index."""
    for column, columns, code in ((4, [0, 1, 2, 3], "boxes[:, :4]"), (0, [1, 2, 3, 4], "boxes[:, 1:]")):
        values, corners = call.rois[:, column], call.rois[:, columns]
        scores = bool(((values >= 0) & (values <= 1)).all()) and bool((values != values.round()).any())
        if not scores or not _in_order(corners):
            continue
        evidence = (
            f"Column 0 is not a batch index (the first such row is {_row(call, bad)}). Column {column} holds numbers "
            "from 0 to 1, such as scores, and the other four are corners in their order: there is no index."
        )
        fix, decide = None, "Pass a list with one tensor [L, 4] for each image, without that column."
        if call.input.shape[0] == 1:
            rois = torch.cat([torch.zeros_like(call.rois[:, :1]), corners], 1)
            fix, decide = _replaced(call, rois, coverage, f"boxes = [{code}]  # without the scores"), ""
        return Finding("RA207", evidence, rows_where(bad), fix, decide=decide or None)
    return None


def _rotated(call: RoICall, bad: Tensor, coverage: Tensor) -> Finding | None:
    """RA214: centre x, centre y, width, height, angle."""
    centres, sizes, angles = call.rois[:, :2], call.rois[:, 2:4], call.rois[:, 4]
    turn = float(angles.abs().max())
    uneven = float((angles != angles.round()).float().mean()) >= _NOT_WHOLE
    if turn == 0 or not (turn <= 1.01 * math.pi or turn <= 180) or not uneven or bool((sizes <= 0).any()):
        return None
    if float(centres.min()) < 0 or _in_order(call.rois[:, 1:]):
        return None
    in_radians = turn <= 1.01 * math.pi
    degrees = angles.rad2deg() if in_radians else angles
    evidence = (
        f"Column 0 is not a batch index (the first such row is {_row(call, bad)}), and the last column lies within "
        f"+-{turn:.3g}, as angles in {'radians' if in_radians else 'degrees'} do: these are rotated boxes (centre x, "
        f"centre y, width, height, angle), and {call.operator} takes upright ones."
    )
    decide = (
        "roi_align_rotated takes degrees counter-clockwise; negate clockwise angles such as OpenCV's. In a tensor "
        "its rows are batch index, centre x, centre y, width, height, degrees."
    )
    fix = None
    if call.input.shape[0] == 1 and call.operator in ("roi_align", "mmcv.ops.RoIAlign"):
        cosine, sine = degrees.deg2rad().cos().abs(), degrees.deg2rad().sin().abs()
        halves = torch.stack([sizes[:, 0] * cosine + sizes[:, 1] * sine, sizes[:, 0] * sine + sizes[:, 1] * cosine], 1)
        rois = torch.cat([torch.zeros_like(centres[:, :1]), centres - halves / 2, centres + halves / 2], 1)
        turned = "torch.cat([boxes[:, :4], boxes[:, 4:].rad2deg()], 1)" if in_radians else "boxes"
        line = call_line(call.with_(operator="roi_align", aligned=False))
        line = line.replace("roi_align(features, boxes", f"roialign.roi_align_rotated(features, [{turned}]", 1)
        fix = _replaced(call, rois, coverage, line, "function")
    return Finding("RA214", evidence, rows_where(bad), fix, decide=decide)


def _no_such_image(call: RoICall, bad: Tensor, coverage: Tensor) -> Finding:
    """RA206: an index that is none of the batch, with a fix where a slip of the numbering explains it."""
    images, index = call.input.shape[0], call.rois[:, 0]
    whole = bool((index == index.floor()).all()) and _in_order(call.rois[:, 1:])
    moved, code = index, ""
    if whole and float(index.min()) == 1 and float(index.max()) == images:
        moved, code = index - 1, "boxes[:, 0] -= 1  # images are counted from 0"
    elif whole and images == 1:
        moved, code = torch.zeros_like(index), "boxes[:, 0] = 0  # the batch has one image"
    fix = _replaced(call, torch.cat([moved[:, None], call.rois[:, 1:]], 1), coverage, code) if code else None
    evidence = (
        f"{int(bad.sum())} of {len(bad)} boxes have a batch index out of range (the batch has {images}), the first "
        f"is {_row(call, bad)}. torchvision reads out of bounds there."
    )
    decide = None if fix else "Column 0 is the position of the image in the batch, counted from 0."
    return Finding("RA206", evidence, rows_where(bad), fix, decide=decide)


def _in_order(corners: Tensor) -> bool:
    """Whether all of [K, 4] end after they begin."""
    return bool((corners[:, 2:] > corners[:, :2]).all())


def _replaced(call: RoICall, rois: Tensor, coverage: Tensor, code: str, argument: str = "boxes") -> Fix | None:
    """The call with other rows, if all of them can be sampled then."""
    fixed = call.with_(rois=rois)
    if not bool(fixed.usable().all()):
        return None
    return Fix(argument, None, code, mean(coverage), mean(fixed.coverage()), fixed)


def _row(call: RoICall, mask: Tensor) -> str:
    row = int(mask.nonzero()[0])
    if has_other_boxes(call):
        return f"row {row}"
    values = [f"{value:g}" for value in call.rois[row].tolist()]
    if call.boxes_form == "list":
        return f"row {row} = [{', '.join(values[1:])}] of image {values[0]}"
    return f"boxes[{row}] = [{', '.join(values)}]"
