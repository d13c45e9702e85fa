"""The functions that pool, as those who look at calls see them: what each has, lacks and is called with.

The doctor's checks are written for `roi_align`; the others have less to get wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

_NO_GRID_TO_GET_WRONG = ("RA101", "RA102", "RA104", "RA105", "RA106", "RA108", "RA110", "RA304", "RA305")
_OF_ANY_SCALE = ("RA101", "RA104", "RA205", "RA206", "RA301", "RA302", "RA310")


@dataclass(frozen=True)
class Function:
    """What is told of the calls of one function, besides what a `RoICall` holds."""

    never: tuple[str, ...] = ()
    """Codes that make no sense: it has no such argument, or was given what decides."""
    only: tuple[str, ...] | None = None
    """All codes that make sense, of one whose boxes are shown as others that are like them."""
    tensors: str = "features, boxes"
    """Its first arguments in a line of code."""
    aligned_by_default: bool | None = None
    """None where it has no `aligned`."""
    is_of_an_image: bool = True
    """Whether the map may be one that a backbone made of an image."""
    pools_as_roi_align: bool = False
    """Whether `roi_align` gives its numbers."""
    rounds_boxes: bool = False
    """Whether boxes are rounded to whole cells, and get no gradient."""
    is_sampled: bool = False
    """Whether a peer of this name reads out of bounds for coordinates that are not finite."""
    empty_boxes: str = "They are pooled as a point at most."
    """What becomes of boxes without an area; "" where that depends on the options."""


_ROUNDED_TO_ONE_CELL = "They are pooled as one cell at their first corner."

FUNCTIONS = {
    "roi_align": Function(aligned_by_default=False, pools_as_roi_align=True, is_sampled=True, empty_boxes=""),
    "mmcv.ops.RoIAlign": Function(pools_as_roi_align=True, is_sampled=True, empty_boxes=""),
    "pool_regions": Function(
        never=_NO_GRID_TO_GET_WRONG,
        pools_as_roi_align=True,
        empty_boxes="They are pooled as a point, flipped, or as zeros.",
    ),
    "MultiScaleRoIAlign": Function(aligned_by_default=False, pools_as_roi_align=True, empty_boxes=""),
    "masked_roi_align": Function(
        never=("RA108",), tensors="features, boxes, masks", aligned_by_default=True, empty_boxes=""
    ),
    "ps_roi_align": Function(never=("RA108",), is_sampled=True),
    "prroi_pool": Function(never=("RA108", "RA501"), empty_boxes="They are pooled as zeros."),
    "roi_pool": Function(never=("RA108", "RA501"), rounds_boxes=True, empty_boxes=_ROUNDED_TO_ONE_CELL),
    "mmcv.ops.RoIPool": Function(never=("RA108", "RA501"), empty_boxes=_ROUNDED_TO_ONE_CELL),
    "ps_roi_pool": Function(never=("RA108", "RA501"), rounds_boxes=True),
    "roi_align_rotated": Function(
        only=(*_OF_ANY_SCALE, "RA102", "RA106", "RA209", "RA303", "RA304", "RA305", "RA311", "RA502"),
    ),
    "roi_align_1d": Function(
        only=_OF_ANY_SCALE, tensors="features, segments", aligned_by_default=False, is_of_an_image=False
    ),
    "roi_align_3d": Function(
        only=(*_OF_ANY_SCALE, "RA102", "RA106", "RA209", "RA502"), aligned_by_default=False, is_of_an_image=False
    ),
    "crop_and_resize": Function(only=("RA302",), is_of_an_image=False),
}
"""By `RoICall.operator`."""


def function_of(operator: str) -> Function:
    """What is told of a function; of one that is not known, what holds of most."""
    return FUNCTIONS.get(operator, Function())
