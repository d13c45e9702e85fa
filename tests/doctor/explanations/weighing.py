"""What the tests of explanations share: a call weighed with all its codes, and one explanation told of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence
from roialign.doctor.explanations import Explanation, Weighed, tell, weigh
from roialign.doctor.findings import Fix
from roialign.doctor.surroundings import Surroundings
from roialign.ops.roi_align import as_call

SIZE_HW, STRIDE = (640, 1024), 16
BOXES = torch.tensor(
    [[100.0, 700, 200, 900], [300, 40, 600, 400], [37, 64, 250, 127], [512, 96, 760, 320], [800, 400, 1000, 630]]
)
BOXES[0] = torch.tensor([640.0, 100, 900, 200])


def weighed_call(
    boxes: Any,
    scale: float = 1 / STRIDE,
    image_size_hw: tuple[int, int] | None = SIZE_HW,
    around: Surroundings | None = None,
    map_size_hw: tuple[int, int] = (SIZE_HW[0] // STRIDE, SIZE_HW[1] // STRIDE),
) -> Weighed:
    call = as_call(torch.ones(1, 2, *map_size_hw), boxes, 7, scale, 2, True)
    return weigh(Evidence(call, image_size_hw, around=around), lambda code: True)


def fix_of(weighed: Weighed, place: str, order: str = "corners") -> Fix | None:
    """The fix of one explanation, whether or not it is the likeliest."""
    pair = next(one for one in weighed.pairs if (one[1].name, one[0].name) == (place, order))
    return tell(weighed, Explanation(*pair, 0.0, 0.0, 0.0, only=True), []).fix


def pasted(code: str, boxes: Any) -> tuple[Tensor, float | None]:
    """The boxes [K, 4] after the lines were run, and the scale of the call if they make one."""
    scales: list[float] = []
    names = {"boxes": copy.deepcopy(boxes), "features": None, "torch": torch}
    names["roi_align"] = lambda *_, **options: scales.append(options["spatial_scale"])
    exec(code, names)
    after = names["boxes"]
    rows = after[0] if isinstance(after, list) else after[:, 1:]
    return rows, scales[0] if scales else None


def in_both_forms(boxes: Tensor) -> list[Any]:
    """Boxes of one image as a list and as rows with its index."""
    return [[boxes], torch.cat([torch.zeros(len(boxes), 1), boxes], 1)]
