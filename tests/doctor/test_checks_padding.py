"""RA312: padded batches whose boxes the padding reaches, beside those that are nobody's fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import roialign
from roialign.doctor.findings import Finding

BOXES = torch.tensor([[20.0, 20.0, 62.0, 60.0], [4.0, 8.0, 60.0, 62.0]])
BACKBONE = nn.Sequential(nn.Conv2d(3, 8, 8, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 4, stride=2, padding=1))


def on_canvas(sizes: list[tuple[int, int]], canvas_hw: tuple[int, int] = (160, 200)) -> Tensor:
    torch.manual_seed(0)
    return torch.stack([pad(torch.rand(3, h, w), (0, canvas_hw[1] - w, 0, canvas_hw[0] - h)) for h, w in sizes])


def found(images: Tensor, boxes: list[Tensor], training: bool = False, library: str = "roialign") -> list[Finding]:
    with roialign.watch() as report, torch.set_grad_enabled(training):
        features = BACKBONE(images)
        roi_align: Callable[..., Tensor] = roialign.roi_align
        if library == "torchvision":
            roi_align = pytest.importorskip("torchvision").ops.roi_align
        roi_align(features, boxes, 3, 1 / 8, 2, True)
    return list(report.findings)


@pytest.mark.parametrize("library", ["roialign", "torchvision"])
def test_boxes_that_the_padding_of_a_batch_reaches(library: str) -> None:
    images = on_canvas([(64, 64), (160, 200)])
    (finding,) = found(images, [BOXES, BOXES[:1]], library=library)
    assert (finding.code, finding.severity, finding.rois) == ("RA312", "warning", (0, 1))
    assert "2 images of several sizes were padded to 160 x 200, and 2 of 3 boxes read cells" in finding.evidence


@pytest.mark.parametrize(
    ("sizes", "boxes", "training"),
    [
        ([(160, 200), (160, 200)], [BOXES, BOXES], False),
        ([(64, 64), (160, 200)], [BOXES / 2, BOXES[:1]], False),
        ([(64, 64), (160, 200)], [BOXES, BOXES[:1]], True),
        ([(64, 64), (160, 200)], [BOXES[:1], *[BOXES.repeat(4, 1)]], False),
        ([(160, 120), (100, 200)], [BOXES, BOXES], False),
    ],
    ids=["one size", "away from the edge", "training", "few of many", "a canvas that each fills"],
)
def test_what_is_no_fault(sizes: list[tuple[int, int]], boxes: list[Tensor], training: bool) -> None:
    assert "RA312" not in [finding.code for finding in found(on_canvas(sizes), boxes, training)]
