"""Checks of the boxes: RA203, RA204 and RA209. Each is a pure function of the evidence."""

from __future__ import annotations

import torch

from roialign.doctor.checks.operators import has_other_boxes
from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding

def degenerate(known: Evidence) -> Finding | None:
    """RA204: boxes without an area."""
    boxes = known.boxes_xyxy
    inverted, empty = (known.sides < 0).any(1), (known.sides <= 0).any(1)
    if not bool(empty.any()):
        return None
    if bool(inverted.any()):
        low, high = boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])
        code = "boxes[:, -4:] = boxes[:, -4:].unflatten(1, (2, 2)).sort(dim=1).values.flatten(1)"
        fix = known.boxes_fix(torch.cat([low, high], 1), code)
    else:
        code = "boxes = boxes[(boxes[:, -2:] > boxes[:, -4:-2]).all(dim=1)]"
        fix = known.fix("boxes", None, code, known.call.with_(rois=known.call.rois[~empty]))
    evidence = (
        f"{int(inverted.sum())} of {len(boxes)} boxes end before they begin and {int((empty & ~inverted).sum())} have "
        f"no width or no height; the first is {_row(known, empty)}. {_what_they_become(known)}"
    )
    return Finding("RA204", evidence, rows_where(empty), fix)


def outside(known: Evidence) -> Finding | None:
    """RA209: boxes that lie off the map, in whatever frame."""
    if not bool(known.low.any()):
        return None
    wholly = known.low & (known.coverage == 0)
    height, width = known.image_size_hw or known.frame_hw
    x, y = known.furthest_xy
    fix = None
    boxes = known.boxes_xyxy
    overlaps = ((boxes[:, 2:] > 0) & (boxes[:, :2] < boxes.new_tensor([width, height]))).all(1)
    if bool(overlaps.any()) and not bool(overlaps.all()):
        size_wh = f"boxes.new_tensor([{width:g}, {height:g}])"
        code = f"boxes = boxes[((boxes[:, -2:] > 0) & (boxes[:, -4:-2] < {size_wh})).all(dim=1)]"
        fix = known.fix("boxes", None, code, known.call.with_(rois=known.call.rois[overlaps]))
    evidence = (
        f"{int(wholly.sum())} of {len(wholly)} RoIs lie wholly and {int((known.low & ~wholly).sum())} mostly off the "
        f"map, which covers an image of about {width:.4g} columns and {height:.4g} rows; the first is "
        f"{_row(known, known.low)}. The boxes span {known.nearest:g} to {max(x, y):g}."
    )
    return Finding("RA209", evidence, rows_where(known.low), fix, decide=None if fix else _where_they_come_from(known))


def _row(known: Evidence, mask: torch.Tensor) -> str:
    row = int(mask.nonzero()[0])
    within = ", within " if has_other_boxes(known.call) else " = "
    return f"boxes[{row}]{within}[" + ", ".join(f"{value:g}" for value in known.boxes_xyxy[row].tolist()) + "]"


def _where_they_come_from(known: Evidence) -> str:
    return "Look at where these boxes come from."


def _what_they_become(known: Evidence) -> str:
    if known.call.operator in ("roi_pool", "mmcv.ops.RoIPool"):
        return "They are pooled as one cell at their first corner."
    if known.call.operator == "prroi_pool":
        return "They are pooled as zeros."
    if known.call.operator not in ("roi_align", "masked_roi_align", "pool_regions", "mmcv.ops.RoIAlign"):
        return "They are pooled as a point at most."
    if known.call.operator == "pool_regions":
        return "They are pooled as a point, flipped, or as zeros."
    if not known.call.aligned:
        return "With aligned=False they are pooled as one cell at their first corner."
    if known.call.sampling_ratio > 0:
        return "With aligned=True an empty one is pooled as a point and an inverted one flipped."
    return "With aligned=True and adaptive sampling they are pooled as zeros."
