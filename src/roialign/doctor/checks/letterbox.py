"""The check of letterboxed images: RA107, where the image was seen. A pure function of the evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.doctor.bars import Picture
from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding

_LEAST_IN_BARS = 0.1  # of a box
_LEAST_BOXES = 0.1  # of the boxes
_SLACK = 0.01  # of the picture's size, for boxes that were rounded


def bars_left_out(known: Evidence) -> Finding | None:
    """RA107: boxes that were scaled as the picture was, but not moved by the bar before it."""
    rects = pictures(known)
    if rects is None or known.call.spatial_scale == 1.0 or known.nearest < -1 or bool((known.sides <= 0).any()):
        return None
    boxes, all_boxes = known.boxes_xyxy, _of_all_levels(known)
    sizes_wh = rects[:, 2:] - rects[:, :2]
    inside_bars = in_bars(boxes, rects)
    if float(inside_bars.float().mean()) < _LEAST_BOXES or not _end_within(all_boxes, known):
        return None
    if not bool((boxes[:, 2:] <= sizes_wh * (1 + _SLACK) + 1).all()):
        return None
    shifts = rects[:, :2]
    first = int(inside_bars.nonzero()[0])
    left, top, right, bottom = (int(edge) for edge in rects[first].tolist())
    bars = f"The first {top} rows" if top else f"The first {left} columns"
    moved = boxes + torch.cat([shifts, shifts], 1)
    same = bool((shifts == shifts[0]).all())
    code = f"boxes[:, -4:] += boxes.new_tensor([{left}, {top}, {left}, {top}])"
    fix = known.boxes_fix(moved, code) if same else None
    evidence = (
        f"{bars} of the image that entered the backbone are of one colour, and as many at its other end: bars of a "
        f"letterbox around a picture of {right - left} columns and {bottom - top} rows. {int(inside_bars.sum())} of "
        f"{len(boxes)} boxes reach into the bar before the picture with a tenth of their area or more, and all end "
        f"within x = {right - left}, y = {bottom - top}, as if the picture began at 0."
    )
    decide = "Look at one box in the image. If the picture was resized, too, multiply the boxes by new size / old size."
    return Finding("RA107", evidence, rows_where(inside_bars), fix, decide=decide)


def pictures(known: Evidence) -> Tensor | None:
    """The picture (x1, y1, x2, y2) of the image of each box, [K, 4], where all of them have bars."""
    found: tuple[Picture | None, ...] = known.around.pictures if known.around is not None else ()
    if not found or len(found) != known.call.input.shape[0] or not len(known.boxes_xyxy):
        return None
    rects = [tuple(picture) if picture else (float("nan"),) * 4 for picture in found]
    of_each = known.boxes_xyxy.new_tensor(rects)[known.call.rois[:, 0].long()]
    return None if bool(of_each.isnan().any()) else of_each


def in_bars(boxes_xyxy: Tensor, rects: Tensor) -> Tensor:
    """Whether a tenth of each box or more lies in the bars, bool [K]."""
    low, high = boxes_xyxy[:, :2].maximum(rects[:, :2]), boxes_xyxy[:, 2:].minimum(rects[:, 2:])
    pictured = (high - low).clamp(min=0).prod(1)
    return pictured < (1 - _LEAST_IN_BARS) * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)


def _of_all_levels(known: Evidence) -> Tensor | None:
    """All boxes [K, 5] of the pooler that makes the call: those of one level say little of where boxes may lie."""
    pyramid = known.around.pyramid if known.around is not None else None
    return None if pyramid is None else pyramid.rois


def _end_within(rois: Tensor | None, known: Evidence) -> bool:
    """Whether all of these boxes end within the size of their picture."""
    if rois is None or known.around is None:
        return True
    sizes_wh = [[p.right - p.left, p.bottom - p.top] if p else [0.0, 0.0] for p in known.around.pictures]
    most = rois.new_tensor(sizes_wh)[rois[:, 0].long()] * (1 + _SLACK) + 1
    return bool((rois[:, 3:] <= most).all())
