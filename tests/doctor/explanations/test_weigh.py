"""Weighing whole calls: healthy ones stay healthy, beliefs add up and are bounded, the picture is a witness."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import roialign
from roialign.doctor.diagnose import examine
from roialign.doctor.evidence import Evidence
from roialign.doctor.explanations import Beliefs, Weighed, weigh
from roialign.doctor.explanations.table import MOST_BELIEVED
from roialign.doctor.surroundings import Surroundings
from roialign.ops.roi_align import as_call
from tests.doctor.calls import scenes
from tests.doctor.explanations.weighing import BOXES, in_both_forms, weighed_call


def grown(boxes: Tensor, by: float) -> Tensor:
    margin = (boxes[:, 2:] - boxes[:, :2]) * by
    return torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)


def tiles(size_hw: tuple[int, int], side: int) -> Tensor:
    height, width = size_hw
    corners = [[x, y] for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
    return torch.tensor([[x, y, x + side, y + side] for x, y in corners], dtype=torch.float32)


def healthy_calls() -> Iterator[tuple[str, Tensor, Any, float, tuple[int, int] | None]]:
    """(kind, features, boxes, spatial_scale, image_size) of calls with which nothing is wrong."""
    rng = random.Random(0)
    for scene in scenes(60):
        size = scene.size_hw
        whole = scene.size_whwh[None]
        whole = torch.cat([torch.zeros(1, 2), whole[:, 2:]], 1)
        for known in (size, None):
            yield "pixels", scene.features, [scene.boxes_xyxy], scene.scale, known
            yield "rows", scene.features, in_both_forms(scene.boxes_xyxy)[1], scene.scale, known
            yield "cells", scene.features, [scene.boxes_xyxy / scene.stride], 1.0, known
            yield "context", scene.features, [grown(scene.boxes_xyxy, 0.1)], scene.scale, known
            yield "whole image", scene.features, [whole], scene.scale, known
        yield "tiles", scene.features, [tiles(size, rng.choice([64, 128]))], scene.scale, size


def test_healthy_calls_are_no_errors_and_seldom_warned_of() -> None:
    looked_at, warned = 0, []
    for kind, features, boxes, scale, size in healthy_calls():
        diagnosis = roialign.diagnose(features, boxes, 7, scale, 2, True, image_size=size)
        explained = [one for one in diagnosis.findings if not one.code.startswith(("RA5", "RA3"))]
        assert [one for one in explained if one.severity == "error"] == [], (kind, boxes, scale, size)
        looked_at += 1
        warned += [(kind, one.code) for one in explained]
    assert looked_at == 60 * 11
    assert len(warned) <= 0.02 * looked_at, warned


def test_two_faults_at_once() -> None:
    weighed = weighed_call([BOXES[:, [1, 0, 3, 2]] + 0.3], 1.0)
    assert weighed.explanations[0].codes == ("RA101", "RA203")


def test_codes_of_no_operator_are_never_said() -> None:
    for boxes in (BOXES, BOXES / 16, BOXES[:, [1, 0, 3, 2]], BOXES * 3):
        call = as_call(torch.ones(1, 2, 40, 64), [boxes], 7, 1 / 16, 2, True)
        weighed = weigh(Evidence(call, (640, 1024)), lambda code: code not in ("RA102", "RA107", "RA203"))
        said = {code for one in weighed.explanations for code in one.codes}
        assert said
        assert not said & {"RA102", "RA107", "RA203"}


def test_odds_are_of_one_whole() -> None:
    weighed = weighed_call([BOXES[:, [1, 0, 3, 2]]])
    of_kinds = torch.tensor(list(weighed.of_kinds.values()))
    assert float(of_kinds.exp().sum()) == pytest.approx(float(weighed.weights.exp().sum()), rel=1e-4)
    ranked = [one.log_odds for one in weighed.explanations]
    assert ranked == sorted(ranked, reverse=True)


def healthy_log_odds(beliefs: Beliefs, boxes: Tensor) -> float:
    call = as_call(torch.ones(1, 2, 64, 64), [boxes], 7, 1 / 16, 2, True)
    return weigh(Evidence(call, (1024, 1024)), lambda code: True, beliefs).healthy_log_odds


def some_boxes(seed: int, count: int = 3) -> Tensor:
    """Boxes of a wide scene: x anywhere, y in the upper 600 pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([800.0, 400.0])
    return torch.cat([corners, corners + 60 + 140 * torch.rand(count, 2, generator=generator)], 1)


def test_calls_of_one_line_add_up() -> None:
    def xywh(seed: int) -> Tensor:
        boxes = some_boxes(seed, 1)
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)

    beliefs = Beliefs()
    alone = [healthy_log_odds(Beliefs(), xywh(seed)) for seed in range(6)]
    together = [healthy_log_odds(beliefs, xywh(seed)) for seed in range(6)]
    assert together[0] == pytest.approx(alone[0])
    assert together[-1] < alone[-1] - 1


def test_beliefs_are_bounded_and_one_healthy_line_stays_healthy() -> None:
    beliefs = Beliefs()
    for seed in range(60):
        assert healthy_log_odds(beliefs, some_boxes(seed)) > 0
        assert all(abs(value) <= MOST_BELIEVED for value in beliefs.evidence.values())


def test_the_same_boxes_again_are_no_further_evidence() -> None:
    boxes, beliefs = some_boxes(0), Beliefs()
    first = healthy_log_odds(beliefs, boxes)
    believed = dict(beliefs.evidence)
    assert [healthy_log_odds(beliefs, boxes) for _ in range(5)] == [pytest.approx(first)] * 5
    assert beliefs.evidence == believed


def drawn(boxes: Tensor, side: int = 512) -> Tensor:
    """A picture [1, 3, H, W] of rectangles."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, side, side, generator=generator) * 0.05 + 0.4
    for left, top, right, bottom in boxes.int().tolist():
        image[:, :, top:bottom, left:right] += torch.rand(3, 1, 1, generator=generator) * 0.5
    return image


DRAWN = torch.tensor([[40.0, 60, 140, 300], [200, 30, 280, 180], [310, 200, 480, 280], [60, 350, 300, 420]])


@pytest.mark.parametrize("y_first", [False, True])
def test_the_picture_tells_y_first_on_a_square_image(y_first: bool) -> None:
    boxes = DRAWN[:, [1, 0, 3, 2]] if y_first else DRAWN
    call = as_call(torch.rand(1, 2, 32, 32) + 0.1, [boxes], 7, 1 / 16, 2, True)
    blind = examine(call, (512, 512))
    seeing = examine(call, (512, 512), around=Surroundings(images=drawn(DRAWN)))
    assert blind.ok, "no number shows it"
    assert [finding.code for finding in seeing.findings] == (["RA203"] if y_first else [])
    if y_first:
        assert "edges of the picture" in seeing.findings[0].evidence


def test_few_pictures_of_a_line_are_looked_at() -> None:
    beliefs = Beliefs()
    for seed in range(20):
        boxes = DRAWN[:, [1, 0, 3, 2]] + seed
        call = as_call(torch.rand(1, 2, 32, 32) + 0.1, [boxes], 7, 1 / 16, 2, True)
        examine(call, (512, 512), around=Surroundings(images=drawn(DRAWN)), beliefs=beliefs)
    assert 1 <= beliefs.pictures <= 9


def test_a_healthy_call_takes_some_milliseconds() -> None:
    features, times = torch.rand(1, 8, 16, 16), []
    with roialign.watch():
        for seed in range(30):
            boxes = [some_boxes(seed) / 4]
            begin = time.perf_counter()
            roialign.roi_align(features, boxes, 7, 1 / 16, 2, True)
            times.append(time.perf_counter() - begin)
    assert sorted(times)[len(times) // 4] < 0.03  # a few milliseconds, on a machine with other work


def weighed_calls(monkeypatch: pytest.MonkeyPatch, boxes_of_calls: list[Tensor]) -> list[int]:
    """Which calls of one line of code were weighed."""
    weighed: list[int] = []

    def noted(known: Evidence, can_be: Callable[[str], bool], beliefs: Beliefs | None = None) -> Weighed:
        weighed.append(number)
        return weigh(known, can_be, beliefs)

    monkeypatch.setattr("roialign.doctor.explanations.weigh", noted)
    beliefs = Beliefs()
    for number, boxes in enumerate(boxes_of_calls):  # noqa: B007  `noted` reads it
        call = as_call(torch.rand(1, 2, 64, 64), [boxes], 7, 1 / 16, 2, True)
        examine(call, (1024, 1024), beliefs=beliefs)
    return weighed


def test_a_line_that_stays_healthy_is_weighed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = weighed_calls(monkeypatch, [some_boxes(seed, 12) for seed in range(80)])
    assert weighed[:2] == [0, 1]
    assert 8 < len(weighed) < 20
    assert max(after - before for before, after in pairwise(weighed)) <= 16


def test_boxes_off_the_map_are_weighed_whatever_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = [some_boxes(seed, 12) for seed in range(40)]
    weighed = weighed_calls(monkeypatch, [*healthy, some_boxes(41, 12) * 4, some_boxes(42, 12) * 4])
    assert weighed[-2:] == [40, 41]
