"""Which codes can be true of which operator: checks are written for `roi_align`, others have less to get wrong."""

from __future__ import annotations

from roialign.ops.calls import RoICall

_NO_GRID_TO_GET_WRONG = ("RA101", "RA102", "RA104", "RA105", "RA106", "RA108", "RA110", "RA304", "RA305")
_IN_UNEVEN_CELLS = ("RA103", "RA107", "RA201", "RA202", "RA203", "RA303", "RA501", "RA502")
_NEVER = {
    "roi_pool": ("RA108", "RA501"),
    "mmcv.ops.RoIPool": ("RA108", "RA501"),
    "ps_roi_pool": ("RA108", "RA501"),
    "ps_roi_align": ("RA108",),
    "pool_regions": _NO_GRID_TO_GET_WRONG,
}
"""Codes that make no sense for an operator: it has no such argument, or was given what decides."""


def can_be_said(code: str, call: RoICall) -> bool:
    """Whether `code` can be true of the operator that was called."""
    if code in _NEVER.get(call.operator, ()):
        return False
    uneven = call.cells is not None and call.cells[0] != call.cells[2]
    return not (uneven and code in _IN_UNEVEN_CELLS)
