"""Checks of the boxes: RA109, RA204, RA209 and RA215. Each is a pure function of the evidence."""

from __future__ import annotations

import math

import torch

from roialign.doctor.checks.operators import has_other_boxes
from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding
from roialign.doctor.lines import IN_ORDER, ONLY_IF_EXCHANGED, in_order, masked_later, paste, rows_of
from roialign.ops.functions import function_of

_MOVED_CELLS, _MOVED_SIDE = 1 / 16, 0.02  # by rounding
_FAR_MOVED_CELLS, _FAR_MOVED_SIDE, _LEAST_FAR_MOVED = 0.5, 0.1, 0.25  # of the boxes: sure
_LEAST_BITS = 6  # that coordinates could have had behind the point, and have not: they were whole before


def degenerate(known: Evidence) -> Finding | None:
    """RA204: boxes without an area, but for rows of zeros among others, which are masked later."""
    boxes = known.boxes_xyxy
    empty = (known.sides <= 0).any(1) & ((boxes != 0).any(1) | bool((boxes == 0).all()))
    inverted = (known.sides < 0).any(1) & empty
    if not bool(empty.any()):
        return None
    rows = rows_where(empty)
    evidence = (
        f"{int(inverted.sum())} of {len(boxes)} boxes are inverted and {int((empty & ~inverted).sum())} have no "
        f"width or no height; the first is {_row(known, empty)}. {_what_they_become(known)}"
    )
    if not bool(inverted.any()):
        return Finding("RA204", evidence, rows, decide=masked_later(rows))
    sorted_rows = known.call.with_(rois=torch.cat([known.call.rois[:, :1], in_order(boxes)], 1))
    fix = known.fix("boxes", None, paste(known.call, IN_ORDER), sorted_rows)
    return Finding("RA204", evidence, rows, fix, decide=ONLY_IF_EXCHANGED)


def outside(known: Evidence) -> Finding | None:
    """RA209: boxes that lie off the map, in whatever frame."""
    if not bool(known.low.any()):
        return None
    wholly = known.low & (known.coverage == 0)
    height, width = known.image_size_hw or known.frame_hw
    x, y = known.furthest_xy
    rows = rows_where(known.low)
    evidence = (
        f"{int(wholly.sum())} of {len(wholly)} RoIs lie wholly and {int((known.low & ~wholly).sum())} mostly off the "
        f"map, which covers an image of about {width:.4g} columns and {height:.4g} rows: {rows_of(rows)}; the first is "
        f"{_row(known, known.low)}. The boxes span {known.nearest:g} to {max(x, y):g}."
    )
    decide = _where_they_come_from(known)
    return Finding("RA209", evidence, rows, decide=decide, doubtful=known.is_thin or not bool(wholly.any()))


def rounded(known: Evidence) -> Finding | None:
    """RA109: float16 or bfloat16 coordinates that are moved by a part of a cell or of their box."""
    kind = known.call.boxes_dtype
    if kind not in (torch.float16, torch.bfloat16):
        return None
    boxes = known.boxes_xyxy.float()
    units = torch.finfo(kind).eps * torch.exp2(boxes.abs().clamp(min=1e-30).log2().floor())
    fine = units < 1
    if bool((boxes[fine] == boxes[fine].round()).all()) and float(-units[fine].log2().sum()) >= _LEAST_BITS:
        units = units.where(units > 1, 0)  # whole pixels are kept as they are
    moved = units.amax(1) / 2
    of_a_cell, of_a_side = moved * known.call.spatial_scale, moved / known.sides.amin(1).clamp(min=1e-6)
    far = (of_a_cell >= _MOVED_CELLS) | ((of_a_side >= _MOVED_SIDE) & (known.sides > 0).all(1))
    if not bool(far.any()):
        return None
    very_far = (of_a_cell >= _FAR_MOVED_CELLS) | (of_a_side >= _FAR_MOVED_SIDE)
    worst = int(torch.where(far, moved, 0).argmax())
    name = str(kind).removeprefix("torch.")
    evidence = (
        f"The boxes are {name}, which has {1 - round(math.log2(torch.finfo(kind).eps))} significant bits: "
        f"{int(far.sum())} of {len(far)} may have been moved by {100 * _MOVED_SIDE:g} % of their side or "
        f"1/{1 / _MOVED_CELLS:g} of a cell and more, {_row(known, far & (moved == moved[worst]))} by up to "
        f"{float(moved[worst]):.3g}, which is {100 * float(of_a_side[worst]):.2g} % of its shorter side and "
        f"{float(of_a_cell[worst]):.2g} cells."
    )
    decide = (
        "Keep boxes in float32 from the start: .float() does not bring lost digits back. roialign's operators take "
        "float32 boxes with half features; for torchvision use features.float() as well."
    )
    doubtful = float((far & very_far).float().mean()) < _LEAST_FAR_MOVED
    return Finding("RA109", evidence, rows_where(far), decide=decide, doubtful=doubtful)


def fewer_lists(known: Evidence) -> Finding | None:
    """RA215: fewer lists of boxes than images."""
    images, lists = known.call.input.shape[0], known.call.lists
    if lists is None or lists >= images:
        return None
    unread = f"image {lists}" if lists == images - 1 else f"images {lists} to {images - 1}"
    evidence = f"The batch has {images} images, and {lists} of them {'has' if lists == 1 else 'have'} a list of boxes: "
    evidence += f"no box is pooled from {unread}, counted from 0."
    decide = (
        "If the boxes belong to all images, pass one tensor per image; for images without boxes, torch.empty(0, 4)."
    )
    return Finding("RA215", evidence, decide=decide)


def _row(known: Evidence, mask: torch.Tensor) -> str:
    row = int(mask.nonzero()[0])
    within = ", within " if has_other_boxes(known.call) else " = "
    return f"boxes[{row}]{within}[" + ", ".join(f"{value:g}" for value in known.boxes_xyxy[row].tolist()) + "]"


def _where_they_come_from(known: Evidence) -> str:
    return (
        "Look at where these boxes come from before you drop any: the common scales, orders of columns and formats "
        "were tried, and none puts them all on the map. That some of them fit proves nothing."
    )


def _what_they_become(known: Evidence) -> str:
    words = function_of(known.call.operator).empty_boxes
    if words:
        return words
    if not known.call.aligned:
        return "With aligned=False they are pooled as one cell at their first corner."
    if known.call.sampling_ratio > 0:
        return "With aligned=True an empty one is pooled as a point and an inverted one flipped."
    return "With aligned=True and adaptive sampling they are pooled as zeros."
