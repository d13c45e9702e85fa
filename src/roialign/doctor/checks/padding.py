"""RA312: boxes whose features the padding of a batch changes. A pure function of the evidence."""

from __future__ import annotations

import torch

from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding
from roialign.regions.padding import REACHED, away

_LEAST_REACHED = 0.25  # of the boxes
_MOST_ROUNDED_UP = 64  # pixels, to make a side divisible


def reaches(known: Evidence) -> Finding | None:
    """RA312: images of several sizes in one batch, padded below and on the right to the largest.

    Said of features that are looked at, not trained on, and not of detection models, which are trained on padded
    batches. A batch in which each image fills its height or its width may be a canvas that is always of that size.
    """
    if known.grid is None or known.image_size_hw is None or known.pictures is None:
        return None
    of_a_detector = known.around is not None and known.around.pyramid is not None
    if of_a_detector or (known.caller is not None and known.caller.features_require_grad):
        return None
    pictures = known.pictures.to(known.boxes_xyxy)
    canvas_wh = pictures.new_tensor(known.image_size_hw[::-1])
    fills = pictures[:, 2:] > canvas_wh - _MOST_ROUNDED_UP
    if bool((pictures[:, :2] > 0).any()) or not bool(fills.any(0).all()) or bool(fills.any(1).all()):
        return None
    distance = _distance(known, pictures, fills)
    reached = (distance < REACHED) & ~known.in_padding
    if float(reached.float().mean()) < _LEAST_REACHED:
        return None
    nearest = int(distance.where(reached, torch.inf).argmin())
    height, width = known.image_size_hw
    evidence = (
        f"{len(pictures)} images of several sizes were padded to {height:g} x {width:g}, and {int(reached.sum())} of "
        f"{len(reached)} boxes read cells that see the padding, the nearest boxes[{nearest}]. Their features change "
        "with the batch."
    )
    decide = (
        "Run images of one size together and others apart, as roialign.RegionExtractor does. If the network was "
        "trained on padded batches, this may be intended."
    )
    return Finding("RA312", evidence, rows_where(reached), decide=decide)


def _distance(known: Evidence, pictures: torch.Tensor, fills: torch.Tensor) -> torch.Tensor:
    """How far the cells that each box reads are from padding, in receptive fields [K]."""
    grid, images = known.grid, known.call.rois[:, 0].long()
    if grid is None or grid.receptive_field_hw is None or known.image_size_hw is None:
        return known.coverage.new_full((len(images),), torch.inf)
    result = known.boxes_xyxy.new_full((len(images),), torch.inf)
    for axis in (0, 1):
        edges = known.boxes_xyxy[:, 3 - axis] * known.call.spatial_scale * grid.stride_yx[axis]
        sees_all = grid.receptive_field_hw[axis] >= known.image_size_hw[axis]
        ends = pictures[images, 3 - axis]
        result = result.minimum(away(edges, ends, grid, axis, sees_all).where(~fills[images, 1 - axis], torch.inf))
    return result
