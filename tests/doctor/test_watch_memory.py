"""What a watch keeps of the calls it sees is bounded in bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import roialign
from roialign.doctor.watch import log

FEATURES = torch.ones(1, 8, 64, 64)


def boxes(count: int) -> list[torch.Tensor]:
    return [torch.tensor([[300.0, 300.0, 400.0, 400.0]]).repeat(count, 1)]


@pytest.fixture(autouse=True)
def silent() -> Any:
    with roialign.set_policy("ignore"):
        yield


def held_bytes(report: roialign.doctor.Report) -> int:
    return sum(log._bytes_of(diagnosis) for diagnosis in report.calls)


def test_calls_of_many_boxes_are_counted_beyond_the_bytes_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "KEPT_BYTES", 1 << 20)
    with roialign.watch() as report:
        for _ in range(60):
            roialign.roi_align(FEATURES, boxes(2000), 1)
        roialign.roi_align(FEATURES, boxes(2000), 1)  # the first of another line is kept all the same
    assert report.examined == 61
    assert 2 < len(report.calls) < 40
    assert held_bytes(report) < (1 << 20) + 4 * 2000 * 100
    assert [problem.count for problem in report.problems if problem.finding.code == "RA101"] == [60, 1]


def test_pictures_are_kept_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    map_bytes = FEATURES.numel() * FEATURES.element_size()
    monkeypatch.setattr(log, "PICTURE_BYTES", 3 * map_bytes)
    maps = [FEATURES.clone() for _ in range(2)]
    with roialign.watch() as report:
        roialign.roi_align(maps[0], boxes(1), 1)
        roialign.roi_align(maps[0], boxes(2), 1)
        roialign.roi_align(maps[1], boxes(1), 1)
        roialign.roi_align(maps[1], boxes(1), 1)
    assert [diagnosis.call.input.shape[1] for diagnosis in report.calls if diagnosis.call] == [8, 8, 8, 0]
    assert report.calls[3].call is not None
    assert report.calls[3].call.features_shape == (1, 8, 64, 64)


def test_what_is_held_is_counted_by_what_it_keeps_from_being_freed() -> None:
    whole = torch.zeros(100, 8, 64, 64)
    with roialign.watch() as report:
        roialign.roi_align(whole[3:4], boxes(1), 1)
    assert held_bytes(report) >= whole.numel() * whole.element_size()
