"""RA107 and RA203 in letterboxed images: where the picture lies, and boxes that reach into its bars."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import roialign
from roialign.doctor.bars import Picture, picture_in
from roialign.doctor.diagnose import examine
from roialign.doctor.surroundings import Surroundings
from roialign.ops.roi_align import as_call


def letterboxed(height: int, width: int, side: int, colour: float = 0.0) -> tuple[Tensor, Picture]:
    top, left = (side - height) // 2, (side - width) // 2
    sides = (left, side - width - left, top, side - height - top)
    return pad(torch.rand(3, height, width), sides, value=colour), Picture(left, top, left + width, top + height)


def boxes_in(size_hw: tuple[int, int], count: int, rng: random.Random) -> Tensor:
    height, width = size_hw
    rows = []
    for _ in range(count):
        w, h = rng.uniform(0.1, 0.4) * width, rng.uniform(0.1, 0.4) * height
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        rows.append([x, y, x + w, y + h])
    return torch.tensor(rows)


def codes(boxes: Tensor, picture: Picture, side: int) -> list[roialign.Finding]:
    call = as_call(torch.rand(1, 4, side // 16, side // 16) + 0.1, [boxes], 7, 1 / 16, -1, True)
    return list(examine(call, (side, side), None, None, Surroundings(pictures=(picture,))).findings)


@pytest.mark.parametrize("colour", [0.0, 114 / 255])
def test_the_picture_is_found_between_its_bars(colour: float) -> None:
    rng = random.Random(0)
    for _ in range(40):
        side, short = rng.randrange(64, 100), rng.randrange(30, 60)
        for height, width in ((short, side), (side, short)):
            image, picture = letterboxed(height, width, side, colour)
            assert picture_in(image) == picture


def test_what_is_no_letterbox_has_no_bars() -> None:
    photograph = torch.rand(3, 60, 90)
    framed = pad(photograph, (20, 20, 20, 20))  # black on all sides, as pictures of lenses are
    for image in (photograph, framed, torch.zeros(3, 60, 90), pad(photograph, (0, 0, 4, 30))):
        assert picture_in(image) is None


def test_bars_that_were_left_out() -> None:
    rng, found, repaired = random.Random(0), 0, 0
    for _ in range(60):
        side, short = 320, rng.randrange(150, 250)
        size_hw = (short, side) if rng.random() < 0.5 else (side, short)
        picture = letterboxed(*size_hw, side)[1]
        in_photo = boxes_in(size_hw, rng.choice([8, 20]), rng)
        shift = torch.tensor([picture.left, picture.top, picture.left, picture.top])
        assert codes(in_photo + shift, picture, side) == []
        findings = codes(in_photo, picture, side)
        found += [finding.code for finding in findings] == ["RA107"]
        if findings and findings[0].fix is not None:
            repaired += 1
            names = {"boxes": [in_photo.clone()]}
            exec(findings[0].fix.code, names)
            torch.testing.assert_close(names["boxes"], [in_photo + shift])
            assert "of one colour" in findings[0].evidence
    assert found >= 54
    assert repaired >= 30


def test_y_first_in_a_square_letterbox() -> None:
    rng, found = random.Random(1), 0
    for _ in range(60):
        side, short = 320, rng.randrange(150, 250)
        picture = letterboxed(short, side, side)[1]
        boxes = boxes_in((short, side), 20, rng) + torch.tensor([0, picture.top, 0, picture.top])
        (first, *_) = [finding.code for finding in codes(boxes[:, [1, 0, 3, 2]], picture, side)] or ["none"]
        found += first == "RA203"
    assert found >= 54


def test_watch_sees_the_bars() -> None:
    backbone = nn.Conv2d(3, 8, 16, stride=16)
    image, picture = letterboxed(200, 320, 320)
    boxes = torch.tensor([[10.0, 5.0, 90.0, 60.0], [100.0, 20.0, 300.0, 190.0]])
    moved = boxes + torch.tensor([0, picture.top, 0, picture.top])
    with roialign.watch() as report, torch.no_grad():
        roialign.roi_align(backbone(image[None]), [moved], 7, 1 / 16)
    assert report.ok
    with roialign.watch() as report, torch.no_grad():
        roialign.roi_align(backbone(image[None]), [boxes], 7, 1 / 16)
    assert [finding.code for finding in report.findings] == ["RA107"]
