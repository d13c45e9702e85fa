"""Each frame that boxes may be in: the fault is made, and its fix and its line bring the healthy boxes back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import roialign
from roialign.doctor.bars import Picture
from roialign.doctor.surroundings import Surroundings
from tests.doctor.explanations.weighing import BOXES, SIZE_HW, STRIDE, fix_of, in_both_forms, pasted, weighed_call

SIDES = torch.tensor([SIZE_HW[1], SIZE_HW[0]] * 2, dtype=torch.float32)
PHOTO = roialign.Frame.image((480, 768), name="photo")
ENTERED = PHOTO.resize((320, 512)).resize(SIZE_HW)
RESIZED = Surroundings(frames=(ENTERED,))
BARRED = Surroundings(pictures=(Picture(0, 80, 1024, 560),))
IN_PICTURE = BOXES * torch.tensor([1.0, 0.75, 1.0, 0.75]) + torch.tensor([0.0, 80.0, 0.0, 80.0])


@dataclass(frozen=True)
class Fault:
    place: str
    code: str
    boxes: Tensor
    scale: float = 1 / STRIDE
    around: Surroundings | None = None
    right: Tensor = BOXES


FAULTS = [
    Fault("pixels", "RA101", BOXES, 1.0),
    Fault("cells", "RA102", BOXES / STRIDE),
    Fault("fractions", "RA103", BOXES / SIDES),
    Fault("fractions", "RA103", BOXES / SIDES, 1.0),
    Fault("pixels", "RA104", BOXES, float(STRIDE)),
    Fault("pixels", "RA106", BOXES, 1 / 8),
    Fault("seen frame", "RA107", BOXES * 0.75, around=RESIZED),
    Fault("resized twice", "RA107", BOXES * 4 / 3, around=RESIZED),
    Fault("resized the wrong way", "RA107", BOXES * 0.75**2, around=RESIZED),
    Fault("one resize of two", "RA107", BOXES * 0.5, around=RESIZED),
    Fault(
        "parts of the image",
        "RA107",
        (BOXES / SIDES * 1000).round(),
        right=(BOXES / SIDES * 1000).round() / 1000 * SIDES,
    ),
    Fault("parts of the image", "RA107", BOXES / SIDES * 100),
    Fault("sides swapped", "RA107", BOXES / SIDES * SIDES[[1, 0, 3, 2]]),
    Fault("bars left out", "RA107", IN_PICTURE - torch.tensor([0.0, 80, 0, 80]), around=BARRED, right=IN_PICTURE),
    Fault(
        "padded size",
        "RA107",
        BOXES / SIDES * torch.tensor([1024.0, 640.0] * 2),
        around=BARRED,
        right=IN_PICTURE,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.place} {fault.code} {fault.scale:.3g}")
def test_the_fix_brings_the_boxes_back(fault: Fault) -> None:
    right = fault.right / STRIDE
    for boxes in in_both_forms(fault.boxes):
        weighed = weighed_call(boxes, fault.scale, around=fault.around)
        assert fault.code in [place.code for _, place in weighed.pairs if place.name == fault.place]
        fix = fix_of(weighed, fault.place)
        assert fix is not None
        torch.testing.assert_close(fix.call.rois[:, 1:] * fix.call.spatial_scale, right, atol=0.01, rtol=0)
        after, scale = pasted(fix.code, boxes)
        torch.testing.assert_close(after * (scale or fault.scale), right, atol=0.01, rtol=0)


def test_of_a_window_nothing_but_its_kind_is_known() -> None:
    boxes = BOXES + torch.tensor([900.0, 700.0] * 2)
    weighed = weighed_call([boxes])
    assert fix_of(weighed, "window") is None
    assert weighed.explanations[0].codes == ("RA107",)


def test_shares_and_names_of_places() -> None:
    for fault in FAULTS:
        weighed = weighed_call([fault.boxes], fault.scale, around=fault.around)
        assert all(0 < place.share <= 1 for _, place in weighed.pairs)
        assert sum(1 for order, place in weighed.pairs if place.code is None and order.code is None) == 1
