"""What can be said of which operator: checks are written for `roi_align`, others have less to get wrong."""

from __future__ import annotations

from dataclasses import replace

from roialign.doctor.findings import Finding
from roialign.ops.calls import RoICall
from roialign.ops.functions import function_of

_IN_UNEVEN_CELLS = ("RA103", "RA107", "RA201", "RA202", "RA203", "RA218", "RA303", "RA501", "RA502")


def has_other_boxes(call: RoICall) -> bool:
    """Whether the boxes of `call` are not those that the program passed."""
    return function_of(call.operator).only is not None


def is_of_an_image(call: RoICall) -> bool:
    """Whether the map may be one that a backbone made of an image."""
    return function_of(call.operator).is_of_an_image


def said_of(call: RoICall, finding: Finding) -> Finding | None:
    """The finding as it can be said of the operator that was called, or None."""
    if not can_be_said(finding.code, call):
        return None
    if has_other_boxes(call) and finding.fix is not None and finding.fix.argument == "boxes":
        return replace(finding, fix=None, alternatives=())
    return finding


def can_be_said(code: str, call: RoICall) -> bool:
    """Whether a code makes sense for the operator that was called."""
    function = function_of(call.operator)
    if code in function.never or (function.only is not None and code not in function.only):
        return False
    if call.operator == "roi_align_3d" and call.cells is not None:  # no single scale to speak of
        return code in ("RA301", "RA302")
    uneven = call.cells is not None and call.cells[0] != call.cells[2]
    return not (uneven and code in _IN_UNEVEN_CELLS)
