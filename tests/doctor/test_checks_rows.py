"""Facts of single rows: RA109, RA204 to RA209, RA214 and RA215, each beside the nearest sound call."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import roialign

MAP = torch.rand(1, 8, 40, 50, generator=torch.Generator().manual_seed(0))  # of 640 x 800: stride 16


def objects(count: int = 12, seed: int = 1, least: float = 40.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = least + torch.rand(count, 2, generator=generator) * 160
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([800.0, 640.0]) - sides)
    return torch.cat([corners, corners + sides], 1)


def as_rows(boxes: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(boxes), 1), boxes], 1)


def found(boxes: Tensor | list[Tensor], features: Tensor = MAP) -> list[roialign.Finding]:
    return list(roialign.diagnose(features, boxes, 7, 1 / 16, 2, True, image_size=(640, 800)).findings)


def codes(boxes: Tensor | list[Tensor], features: Tensor = MAP) -> list[str]:
    return [finding.code for finding in found(boxes, features)]


def run(code: str, boxes: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    held: dict[str, object] = {"torch": torch, "boxes": boxes}
    exec(code, held)
    return held["boxes"]  # type: ignore[return-value]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_cannot_be_sampled_keep_their_place(bad: float) -> None:
    boxes = objects()
    boxes[[5, 9]] = bad
    for held in ([boxes[:6], boxes[6:]], as_rows(boxes)):
        maps = MAP.expand(2, -1, -1, -1) if isinstance(held, list) else MAP
        (finding,) = found(held, maps)
        assert (finding.code, finding.rois) == ("RA205", (5, 9))
        assert "rows 5 and 9" in finding.evidence
        assert "pooled[[5, 9]] = 0" in (finding.decide or "")
        assert finding.fix is not None
        after = run(finding.fix.code, held)
        rows = torch.cat(after) if isinstance(after, list) else after[:, 1:]
        torch.testing.assert_close(rows, torch.where(boxes.abs() < 1e6, boxes, 0.0))
        assert codes(after, maps) == [], "zeros are masked later and no warning"


def test_zeros_among_others_are_masked_later() -> None:
    boxes = objects()
    boxes[3:6] = 0
    assert codes([boxes]) == []
    boxes[3:6] = torch.tensor([30.0, 30.0, 30.0, 90.0])
    assert codes([boxes]) == ["RA204"]
    assert codes([torch.zeros(3, 4)]) == ["RA204"], "nothing but zeros"


def test_sorted_corners_are_offered_with_what_else_it_may_be() -> None:
    boxes = objects()
    boxes[4] = boxes[4, [2, 3, 0, 1]]
    for held in ([boxes], as_rows(boxes)):
        (finding,) = found(held)
        assert finding.code == "RA204"
        assert "y is measured from the bottom" in (finding.decide or "")
        assert finding.fix is not None
        after = run(finding.fix.code, held)
        torch.testing.assert_close(after[0] if isinstance(after, list) else after[:, 1:], objects())


def test_boxes_off_the_image_are_named_and_never_dropped() -> None:
    boxes = objects(20)
    boxes[[2, 7]] += 3000
    (finding,) = found([boxes])
    assert (finding.code, finding.rois, finding.fix) == ("RA209", (2, 7), None)
    assert "rows 2 and 7" in finding.evidence
    assert "no scale" not in (finding.decide or "")


ANGLES = {"radians": math.pi / 2, "degrees": 90.0}


def rotated(unit: str, seed: int = 6) -> Tensor:
    boxes = objects(seed=seed)
    turned = (torch.rand(len(boxes), 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * ANGLES[unit]
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], turned], 1)


@pytest.mark.parametrize("unit", ANGLES)
def test_rotated_boxes_are_no_rows_with_an_index(unit: str) -> None:
    boxes = rotated(unit)
    (finding,) = found(boxes)
    assert finding.code == "RA214"
    assert unit in finding.evidence
    assert finding.fix is not None
    assert "[:, 0] = 0" not in finding.fix.code
    held = {"roialign": roialign, "torch": torch, "features": MAP, "boxes": boxes}
    degrees = torch.cat([boxes[:, :4], boxes[:, 4:].rad2deg() if unit == "radians" else boxes[:, 4:]], 1)
    right = roialign.roi_align_rotated(MAP, [degrees], 7, 1 / 16, 2)
    torch.testing.assert_close(eval(finding.fix.code, held), right)
    with roialign.watch() as report:
        roialign.roi_align_rotated(MAP, [degrees], 7, 1 / 16, 2)
    assert report.ok, report
    assert codes(rotated(unit), MAP.expand(2, -1, -1, -1)) == ["RA214"], "of which image is not known"


def test_scores_are_no_index() -> None:
    boxes, scores = objects(), torch.rand(12, 1, generator=torch.Generator().manual_seed(3))
    for rows in (torch.cat([boxes, scores], 1), torch.cat([scores, boxes], 1)):
        (finding,) = found(rows)
        assert finding.code == "RA207"
        assert finding.fix is not None
        (after,) = run(finding.fix.code, rows)
        torch.testing.assert_close(after, boxes)
    assert codes(as_rows(boxes)) == []


def test_an_index_is_only_set_where_the_rest_are_boxes() -> None:
    boxes = as_rows(objects())
    boxes[:, 0] = 7
    (finding,) = found(boxes)
    assert finding.code == "RA206"
    assert finding.fix is not None
    assert finding.fix.code.startswith("boxes[:, 0] = 0")
    boxes[:, 3:] = boxes[:, 1:3] - 5
    (finding, *_) = found(boxes)
    assert (finding.code, finding.fix) == ("RA206", None)


def test_more_lists_than_images_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision").ops
    with pytest.raises(IndexError, match=r"^RA208: stopped"), roialign.watch() as report:
        ops.roi_align(MAP, [objects(), objects(seed=2)], 7, 1 / 16, 2, True)
    assert [finding.code for finding in report.findings] == ["RA208"]


def test_fewer_lists_than_images() -> None:
    maps = MAP.repeat(4, 1, 1, 1)
    (finding,) = found([objects()], maps)
    assert (finding.code, finding.severity) == ("RA215", "warning")
    assert "images 1 to 3" in finding.evidence
    assert codes([objects(), *[torch.empty(0, 4)] * 3], maps) == []
    assert codes(as_rows(objects()), maps) == [], "rows name their image"


HALF = {  # type of the boxes, what they are multiplied by, and what is said of them
    "float16, small": (torch.float16, 0.25, None),
    "float16 in a large image": (torch.float16, 4.0, "warning"),
    "bfloat16": (torch.bfloat16, 1.0, "warning"),
    "bfloat16 in a large image": (torch.bfloat16, 8.0, "error"),
    "float32": (torch.float32, 8.0, None),
}


@pytest.mark.parametrize("name", HALF)
def test_digits_lost_in_half_precision(name: str) -> None:
    kind, times, severity = HALF[name]
    boxes = objects(40, least=20) * times
    maps = torch.rand(1, 2, int(40 * times) or 1, int(50 * times) or 1).to(kind)
    diagnosis = roialign.diagnose(maps, [boxes.to(kind)], 7, 1 / 16, 2, True)
    assert [finding.severity for finding in diagnosis.findings if finding.code == "RA109"] == [severity] * bool(
        severity
    )
    if severity:
        moved = (boxes.to(kind).float() - boxes).abs().amax(1)
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        assert bool(((moved > 1 / 2) | (moved / sides > 0.01)).any())


def test_whole_pixels_are_kept_by_half_precision() -> None:
    boxes = (objects(40) / 4).round()
    assert torch.equal(boxes.bfloat16().float(), boxes)
    assert codes([boxes.bfloat16()], MAP.bfloat16()) == []


def test_boxes_of_a_small_image_are_not_taken_for_rotated_ones() -> None:
    boxes = torch.cat([seeded_percents(12), objects() / 8], 1)  # percents first; y2 is at most 80, as angles may be
    (finding, *_) = found(boxes)
    assert (finding.code, finding.fix) == ("RA206", None)


def seeded_percents(count: int) -> Tensor:
    return torch.rand(count, 1, generator=torch.Generator().manual_seed(4)) * 98 + 1.5
