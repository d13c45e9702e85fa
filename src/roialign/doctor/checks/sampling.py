"""Checks of sampling and training: RA501 to RA504. Each is a pure function of the evidence."""

from __future__ import annotations

import torch

from roialign.doctor.evidence import Evidence, call_line, rows_where
from roialign.doctor.findings import Finding, Fix
from roialign.ops.calls import LEAST_COVERAGE
from roialign.ops.functions import function_of

_MOST_UNREAD = 0.85  # of the cells of a box; torchvision's own detectors stay below on images of common sizes
_LEAST_UNDERSAMPLED = 0.25  # of the boxes
_FAR_SMALLER = 0.25  # of a cell, along both axes
_LEAST_SMALL = 0.5  # of the boxes


def undersampled(known: Evidence) -> Finding | None:
    """RA501: few samples in bins of many cells."""
    ratio = known.call.sampling_ratio
    if ratio <= 0:
        return None
    bins_wh = known.sides.new_tensor(known.call.output_size_hw[::-1])
    bin_cells = known.sides * known.call.spatial_scale / bins_wh
    spacing = bin_cells / ratio
    unread = 1 - (2 / spacing).clamp(0, 1).prod(1)  # a sample reads the two cells around it, along each axis
    sparse = (unread >= _MOST_UNREAD) & (known.sides > 0).all(1) & (known.coverage >= LEAST_COVERAGE)
    if float(sparse.float().mean()) < _LEAST_UNDERSAMPLED:
        return None
    call = known.call.with_(sampling_ratio=-1)
    code = call_line(known.call).replace(f"sampling_ratio={ratio}", "sampling_ratio=-1")
    fix = known.fix("sampling_ratio", -1, code, call) if bool(call.usable().all()) else None
    worst = int(torch.where(sparse, unread, 0).argmax())
    across, down = bin_cells[worst].tolist()
    evidence = (
        f"In {int(sparse.sum())} of {len(sparse)} RoIs at least {100 * _MOST_UNREAD:.0f} % of the cells are not read. "
        f"The worst is {_box(known, worst)}: a bin is {down:.3g} x {across:.3g} cells, of which sampling_ratio={ratio} "
        f"takes {ratio} x {ratio} points and leaves {100 * float(unread[worst]):.0f} % unread."
    )
    decide = "A coarser level of the pyramid is as good for large boxes, and cheaper than many samples."
    return Finding("RA501", evidence, rows_where(sparse), fix, decide=decide)


def smaller_than_a_cell(known: Evidence) -> Finding | None:
    """RA502: boxes far smaller than a cell."""
    cells = known.sides * known.call.spatial_scale
    small = (cells < _FAR_SMALLER).all(1) & (known.sides > 0).all(1)
    if not len(small) or float(small.float().mean()) < _LEAST_SMALL:
        return None
    longer = known.sides.amax(1)[small].median()
    width, height = (float(side) for side in known.sides[small].median(0).values)
    stride = 1 / known.call.spatial_scale
    evidence = (
        f"{int(small.sum())} of {len(small)} boxes ({100 * float(small.float().mean()):.0f} %) are less than "
        f"{_FAR_SMALLER:g} of a cell wide and high: their median is {width:.3g} x {height:.3g}, where a cell is "
        f"{stride:.4g} x {stride:.4g}. {_what_they_read(known)}"
    )
    if known.call.operator == "pool_regions":
        decide = (
            "If the boxes are right, the maps are too coarse for them. Boxes in cells, or in fractions of the image, "
            "have to be multiplied to pixels of the image that entered the backbone."
        )
    elif stride == 1:
        decide = "If the boxes are right, the map is too coarse for them. Fractions of the image would be RA103."
    else:
        decide = (
            f"If the boxes are in pixels, pool them from a finer map, of a stride of about {float(longer):.2g}, or "
            "enlarge the image. If they were divided by the stride already, it is RA102: pass spatial_scale=1.0."
        )
    return Finding("RA502", evidence, rows_where(small), decide=decide)


def boxes_without_gradient(known: Evidence) -> Finding | None:
    """RA503: boxes require grad but the operator passes none."""
    caller, operator = known.caller, known.call.operator
    if caller is None or not caller.boxes_require_grad:
        return None
    if caller.library == "torchvision":
        why = "and the call went to torchvision, whose operator computes none for boxes"
    elif function_of(operator).rounds_boxes:
        why = f"and {operator} rounds them to whole cells, which has no gradient; roi_align and prroi_pool pass one"
    else:
        return None
    count = len(known.call.rois)
    evidence = (
        f"The {count} boxes of this call require a gradient, {why}. What made them silently learns nothing from this "
        "call."
    )
    decide = "If the boxes need no gradient, use boxes.detach()."
    fix = _same_of_roialign(known)
    return Finding("RA503", evidence, tuple(range(count)), fix, decide=decide)


def backward_not_deterministic(known: Evidence) -> Finding | None:
    """RA504: torchvision's backward on CUDA under deterministic mode."""
    caller = known.caller
    if caller is None or caller.library != "torchvision" or caller.device_type != "cuda":
        return None
    if not (caller.deterministic and caller.features_require_grad):
        return None
    evidence = (
        "torch.use_deterministic_algorithms is on and the features require a gradient, but this call went to "
        "torchvision's CUDA operator, whose backward adds with atomics, in a different order in each run. PyTorch "
        "raises in the backward pass, or with warn_only=True only warns."
    )
    return Finding("RA504", evidence, fix=_same_of_roialign(known))


def _same_of_roialign(known: Evidence) -> Fix | None:
    """The same call of roialign's operator, where it has that one."""
    if known.call.operator != "roi_align":
        return None
    return known.fix("function", None, f"roialign.{call_line(known.call)}", known.call)


def _what_they_read(known: Evidence) -> str:
    if not known.call.aligned and known.call.operator == "roi_align":
        return "With aligned=False each is widened to one cell from its first corner."
    return "All bins of such a box read nearly the same spot."


def _box(known: Evidence, row: int) -> str:
    return f"boxes[{row}] = [" + ", ".join(f"{value:g}" for value in known.boxes_xyxy[row].tolist()) + "]"
