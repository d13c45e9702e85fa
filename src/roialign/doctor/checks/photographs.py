"""The check of what was done to the images: RA107, where it was seen. A pure function of the evidence."""

from __future__ import annotations

import torch

from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding

_BEYOND = 0.05  # of the image's size: detectors clip their boxes
_LEAST_BEYOND = 0.1  # of the boxes of all images
_SLACK = 0.01  # of the photograph's size, for boxes that were rounded


def of_the_photograph(known: Evidence) -> Finding | None:
    """RA107: boxes that end beyond the resized image, and within the photograph that it was made of."""
    photographs = known.around.photographs if known.around is not None else None
    boxes = known.boxes_xyxy
    if photographs is None or known.call.spatial_scale == 1.0 or not len(boxes) or known.nearest < -1:
        return None
    if len(photographs.original_hw) != known.call.input.shape[0] or bool((known.sides < 0).any()):
        return None
    images = known.call.rois[:, 0].long()
    original_wh = boxes.new_tensor(photographs.original_hw)[images].flip(1)
    resized_wh = boxes.new_tensor(photographs.resized_hw)[images].flip(1)
    beyond = (boxes[:, 2:] > resized_wh * (1 + _BEYOND) + 1).any(1)
    if float(beyond.float().mean()) < _LEAST_BEYOND or bool((boxes[:, 2:] > original_wh * (1 + _SLACK) + 1).any()):
        return None
    ratios = resized_wh / original_wh
    of_each = [
        [round(new / old, 6) for new, old in zip(resized, original, strict=True)][::-1] * 2
        for resized, original in zip(photographs.resized_hw, photographs.original_hw, strict=True)
    ]
    if len(of_each) == 1:
        code = f"boxes[:, -4:] *= boxes.new_tensor({of_each[0]})"
    else:
        code = f"boxes[:, 1:] *= boxes.new_tensor({of_each})[boxes[:, 0].long()]"
    row = int((boxes[:, 2:] / resized_wh).amax(1).argmax())
    image = int(images[row])
    (old_h, old_w), (new_h, new_w) = photographs.original_hw[image], photographs.resized_hw[image]
    evidence = (
        f"The boxes of image {image} reach to x = {float(boxes[images == image, 2].max()):g}, "
        f"y = {float(boxes[images == image, 3].max()):g}. That is within the original photograph, of {old_w} columns "
        f"and {old_h} rows; the network got it resized to {new_w} columns and {new_h} rows, and {int(beyond.sum())} of "
        f"{len(boxes)} boxes end beyond their resized image."
    )
    return Finding("RA107", evidence, rows_where(beyond), known.boxes_fix(boxes * torch.cat([ratios, ratios], 1), code))
