"""Notices of calls on a GPU come when their numbers have arrived. Here the CPU plays the GPU, and reading raises."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import roialign
from roialign.ops import calls, later, notice
from tests.doctor.test_watch_later import NothingIsRead

OFF = [torch.tensor([[900.0, 900, 990, 990]])]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(calls, "modes_are_on", lambda: False)  # else its work would be hidden from them
    monkeypatch.setattr(later, "must_wait", lambda tensor: True)
    monkeypatch.setattr(notice, "_noticed", set())
    with roialign.set_policy("warn"):
        yield
    notice._waiting.clear()


def off_the_map(which: str) -> torch.Tensor:
    maps = torch.rand(1, 4, 16, 16)
    if which == "pool_regions":
        return roialign.pool_regions(maps, OFF, 2, roialign.FeatureGrid((16, 16), (16.0, 16.0)), sampling_ratio=2)
    if which == "roi_align_3d":
        boxes = [torch.tensor([[900.0, 900, 900, 990, 990, 990]])]
        return roialign.roi_align_3d(torch.rand(1, 4, 4, 16, 16), boxes, 2, 1 / 16, 2)
    if which == "roi_align_rotated":
        return roialign.roi_align_rotated(maps, [torch.tensor([[900.0, 900, 90, 90, 30]])], 2, 1 / 16, 2)
    return getattr(roialign, which)(maps, OFF, 2, 1 / 16)


FUNCTIONS = ["roi_align", "roi_pool", "ps_roi_align", "prroi_pool", "roi_align_rotated", "roi_align_3d", "pool_regions"]


@pytest.mark.parametrize("which", FUNCTIONS)
def test_nothing_is_read_at_the_call_and_the_notice_comes_later(which: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with NothingIsRead():
            off_the_map(which)
        assert not caught
        notice.catch_up()
    (warning,) = caught
    assert warning.category is roialign.RoIWarning
    assert warning.filename == __file__, "the line of the call, not of what caught up"


def test_a_later_call_says_it() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        off_the_map("roi_align")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(later.Arrival, "is_ready", lambda self: True)
            roialign.roi_align(torch.rand(1, 4, 16, 16), [torch.tensor([[16.0, 16, 99, 99]])], 2, 1 / 16)
    assert len(caught) == 1


@pytest.mark.parametrize(("policy", "strict"), [("warn", True), ("raise", None)])
def test_strict_waits(policy: Any, strict: bool | None) -> None:
    with roialign.set_policy(policy, strict=strict):
        if policy == "raise":
            with pytest.raises(roialign.errors.CoverageError):
                off_the_map("roi_align")
        else:
            with pytest.warns(roialign.RoIWarning):
                off_the_map("roi_align")
    assert not notice._waiting
