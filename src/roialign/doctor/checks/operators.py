"""What can be said of which operator: checks are written for `roi_align`, others have less to get wrong."""

from __future__ import annotations

from dataclasses import replace

from roialign.doctor.findings import Finding
from roialign.ops.calls import RoICall

_NO_GRID_TO_GET_WRONG = ("RA101", "RA102", "RA104", "RA105", "RA106", "RA108", "RA110", "RA304", "RA305")
_IN_UNEVEN_CELLS = ("RA103", "RA107", "RA201", "RA202", "RA203", "RA303", "RA501", "RA502")
_NEVER = {
    "roi_pool": ("RA108", "RA501"),
    "mmcv.ops.RoIPool": ("RA108", "RA501"),
    "ps_roi_pool": ("RA108", "RA501"),
    "ps_roi_align": ("RA108",),
    "prroi_pool": ("RA108", "RA501"),
    "masked_roi_align": ("RA108",),
    "pool_regions": _NO_GRID_TO_GET_WRONG,
}
"""Codes that make no sense for an operator: it has no such argument, or was given what decides."""

_OF_ANY_SCALE = ("RA101", "RA104", "RA205", "RA206", "RA301", "RA302", "RA310")
_ONLY = {
    "roi_align_rotated": (*_OF_ANY_SCALE, "RA102", "RA106", "RA209", "RA303", "RA304", "RA305", "RA502"),
    "roi_align_1d": _OF_ANY_SCALE,
    "roi_align_3d": (*_OF_ANY_SCALE, "RA102", "RA106", "RA209", "RA502"),
    "crop_and_resize": ("RA302",),
}
"""All codes that make sense for an operator whose boxes are shown as others that are like them."""


def has_other_boxes(call: RoICall) -> bool:
    """Whether the boxes of `call` are not those that the program passed."""
    return call.operator in _ONLY


def is_of_an_image(call: RoICall) -> bool:
    """Whether the map may be one that a backbone made of an image."""
    return call.operator not in ("roi_align_1d", "roi_align_3d", "crop_and_resize")


def said_of(call: RoICall, finding: Finding) -> Finding | None:
    """The finding as it can be said of the operator that was called, or None."""
    if not can_be_said(finding.code, call):
        return None
    if has_other_boxes(call) and finding.fix is not None and finding.fix.argument == "boxes":
        return replace(finding, fix=None, alternatives=())
    return finding


def can_be_said(code: str, call: RoICall) -> bool:
    """Whether a code makes sense for the operator that was called."""
    if code in _NEVER.get(call.operator, ()) or code not in _ONLY.get(call.operator, (code,)):
        return False
    if call.operator == "roi_align_3d" and call.cells is not None:  # no single scale to speak of
        return code in ("RA301", "RA302")
    uneven = call.cells is not None and call.cells[0] != call.cells[2]
    return not (uneven and code in _IN_UNEVEN_CELLS)
