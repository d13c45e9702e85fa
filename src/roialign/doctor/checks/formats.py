"""Checks of the boxes' format: RA201 and RA202. Each is a pure function of the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding, Fix

_LEAST_INVERTED = 0.3  # of the boxes: fewer may be mistakes of their own
_OVERHANG = 0.01  # of the image that a box of the right format may reach beyond it


@dataclass(frozen=True)
class _Reading:
    """The boxes in a format with a size in it, as corners."""

    code: str
    words: str
    corners: Tensor
    fix: Fix
    fits: bool
    """Whether all boxes lie within the image."""
    touches: int
    """How many sides lie exactly on the image's border, as those of clipped boxes do."""


def xywh(known: Evidence) -> Finding | None:
    """RA201: x, y, width, height read as two corners."""
    return _finding(known, "RA201")


def cxcywh(known: Evidence) -> Finding | None:
    """RA202: centre, width, height read as two corners."""
    return _finding(known, "RA202")


def _finding(known: Evidence, code: str) -> Finding | None:
    readings = _readings(known)
    if not readings or readings[0].code != code:
        return None
    boxes, inverted, best = known.boxes_xyxy, (known.sides < 0).any(1), readings[0]
    row = int(inverted.nonzero()[0])
    shown = ", ".join(f"{value:g}" for value in boxes[row].tolist())
    evidence = (
        f"Read as x1, y1, x2, y2, {int(inverted.sum())} of {len(boxes)} boxes end before they begin "
        f"(boxes[{row}] = [{shown}]). Read as {best.words} all have an area and lie on the map."
    )
    undecided = len(readings) > 1 and (readings[1].fits, readings[1].touches) == (best.fits, best.touches)
    decide = []
    if undecided:
        decide.append(
            f"Read as {readings[1].words} ({readings[1].code}) they fit as well: look at one box in the image."
        )
    if bool((known.sides < 0).all()):
        decide.append("If the corners are merely in the wrong order it is RA204 instead: look at one box in the image.")
    others = (readings[1].fix,) if undecided else ()
    return Finding(code, evidence, rows_where(inverted), best.fix, others, " ".join(decide) or None)


def _readings(known: Evidence) -> list[_Reading]:
    """The formats that put all boxes on the map, the one with the most evidence first."""
    boxes = known.boxes_xyxy
    inverted = (known.sides < 0).any(1)
    if float(inverted.float().mean()) < _LEAST_INVERTED or known.nearest < 0 or not bool((boxes[:, 2:] > 0).all()):
        return []
    near, size = boxes[:, :2], boxes[:, 2:]
    readings = [
        _reading(
            known,
            "RA201",
            "x, y, width, height",
            torch.cat([near, near + size], 1),
            "boxes[:, -2:] += boxes[:, -4:-2]  # width, height -> x2, y2",
        ),
        _reading(
            known,
            "RA202",
            "centre x, centre y, width, height",
            torch.cat([near - size / 2, near + size / 2], 1),
            "boxes[:, -4:] = torch.cat([boxes[:, -4:-2] - boxes[:, -2:] / 2, boxes[:, -4:-2] + boxes[:, -2:] / 2], 1)",
        ),
    ]
    plausible = [one for one in readings if known.well_placed(one.fix.call) and known.fill(one.fix.call) <= 1.05]
    return sorted((one for one in plausible if one.code == "RA201" or one.fits), key=lambda o: (-o.fits, -o.touches))


def _reading(known: Evidence, code: str, words: str, corners: Tensor, line: str) -> _Reading:
    height, width = known.image_size_hw or known.frame_hw
    size_wh = corners.new_tensor([width, height])
    slack = _OVERHANG * size_wh
    fits = bool((corners[:, :2] >= -slack).all()) and bool((corners[:, 2:] <= size_wh + slack).all())
    on_border = torch.cat([corners[:, :2].abs(), (corners[:, 2:] - size_wh).abs()], 1) < 1e-5 * max(height, width)
    return _Reading(code, words, corners, known.boxes_fix(corners, line), fits, int(on_border.sum()))
