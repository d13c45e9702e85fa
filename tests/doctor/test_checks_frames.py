"""RA103, RA106, RA107, RA203 and RA209: which of them it is, and where it is none."""

from __future__ import annotations

import pytest
import torch

import roialign

FEATURES = torch.rand(1, 4, 40, 60) + 0.1  # of an image 640 high, 960 wide: stride 16


def codes(boxes: list[list[float]], scale: float = 1 / 16, size: tuple[int, int] | None = (640, 960)) -> list[str]:
    diagnosis = roialign.diagnose(FEATURES, [torch.tensor(boxes)], 7, scale, 2, True, image_size=size)
    return [finding.code for finding in diagnosis.findings]


def test_boxes_that_straddle_the_far_edge_only_are_of_another_frame() -> None:
    crop = [[600.0, 360.0, 1080.0, 840.0], [360.0, 480.0, 1260.0, 720.0], [240.0, 240.0, 840.0, 828.0]]
    assert codes(crop) == ["RA107"]
    both_sides = [*crop, [-60.0, -50.0, 100.0, 100.0]]  # as anchors are before they are clipped
    assert "RA107" not in codes(both_sides)
    assert codes([[800.0, 300.0, 980.0, 600.0], [100.0, 100.0, 300.0, 300.0]]) == []


@pytest.mark.parametrize("size", [None, (640, 960)])
@pytest.mark.parametrize("others", [1, 2, 4])
def test_one_stray_box_is_no_proof_of_a_frame(others: int, size: tuple[int, int] | None) -> None:
    inside = [[100.0 * i, 50.0, 100.0 * i + 200, 400.0] for i in range(others)]
    stray = torch.tensor([*inside, [1300.0, 200.0, 1360.0, 280.0]])
    diagnosis = roialign.diagnose(FEATURES, [stray], 7, 1 / 16, 2, True, image_size=size)
    (finding,) = diagnosis.findings
    assert finding.code == "RA209" or (finding.code, finding.severity) == ("RA107", "warning")


def test_y_first_is_told_by_one_box_that_reaches_far_beyond() -> None:
    boxes = [[100.0, 420.0, 300.0, 820.0], [50.0, 40.0, 200.0, 300.0]]
    assert codes(boxes) == ["RA203"]
    assert codes([[100.0, 420.0, 300.0, 690.0], [50.0, 40.0, 200.0, 300.0]]) == []  # detectors overhang that much


def test_a_scale_of_no_whole_stride() -> None:
    boxes = [[100.0, 100.0, 400.0, 300.0], [500.0, 200.0, 900.0, 600.0]]
    assert codes(boxes, 1 / 15.8) == ["RA106"]
    assert codes(boxes, 40 / 640) == []
    resized_map = torch.rand(1, 4, 37, 55) + 0.1  # to no size that a stride explains
    for scale in (37 / 640, 55 / 960):
        assert roialign.diagnose(resized_map, [torch.tensor(boxes)], 7, scale, image_size=(640, 960)).ok


def test_a_box_in_the_strip_that_a_map_lacks_of_its_image() -> None:
    features = torch.rand(1, 4, 15, 20) + 0.1  # of 250 x 330 pixels, rounded down: 240 x 320 are covered
    strip = torch.tensor([[40.0, 242.0, 90.0, 250.0]])
    for size in (None, (250, 330)):
        assert roialign.diagnose(features, [strip], 7, 1 / 16, image_size=size).ok
    beyond = torch.tensor([[300.0, 262.0, 328.0, 290.0], [10.0, 10.0, 90.0, 90.0], [50.0, 99.0, 150.0, 220.0]])
    findings = roialign.diagnose(features, [beyond], 7, 1 / 16, image_size=(250, 330)).findings
    assert [finding.code for finding in findings] == ["RA209"]


def test_fractions_in_cells_take_the_image_and_not_the_rounded_map() -> None:
    features = torch.rand(1, 4, 28, 41) + 0.1  # of 441 x 656: 27.6 x 41 cells
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.3, 0.1, 0.9, 0.8]])
    (finding,) = roialign.diagnose(features, [boxes], 7, 1.0, 2, True, image_size=(441, 656)).findings
    assert finding.code == "RA103"
    assert finding.fix is not None
    right = roialign.roi_align(features, [boxes * torch.tensor([656.0, 441.0] * 2)], 7, 1 / 16, 2, True)
    torch.testing.assert_close(finding.fix.call.run()[0], right, rtol=1e-3, atol=1e-4)
