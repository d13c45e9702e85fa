"""`watch` over long, nested and threaded programs: every call is counted once, and memory stays bounded."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

import roialign
from roialign.doctor.watch import lookers, watching
from roialign.doctor.watch.log import KEPT

PIXELS = torch.tensor([[0.0, 100.0, 100.0, 200.0, 200.0], [0.0, 300.0, 300.0, 400.0, 400.0]])


def features() -> Tensor:
    return torch.rand(1, 3, 64, 64)


def test_calls_beyond_the_first_are_only_counted() -> None:
    maps = features()
    with roialign.watch() as report:
        for _ in range(KEPT + 50):
            roi_align(maps, PIXELS, 7, 1 / 16)
            roi_align(maps, PIXELS, 7)
        roi_align(maps, PIXELS, 7, 1 / 16)
    assert len(report.calls) == 2 * KEPT + 1
    assert report.examined == report.to_dict()["calls"] == 2 * (KEPT + 50) + 1
    assert [problem.count for problem in report.problems] == [KEPT + 50]


def test_neither_features_nor_graphs_are_kept_of_healthy_calls() -> None:
    with roialign.watch() as report:
        maps, weights = features().requires_grad_(), torch.ones(5, requires_grad=True)
        roialign.roi_align(maps, PIXELS * weights, 7, 1 / 16)
        roi_align(maps, PIXELS, 7, 1 / 16)
        held = weakref.ref(maps), weakref.ref(weights)
        del maps, weights
        gc.collect()
        assert [one() for one in held] == [None, None]
    (first, second) = report.calls
    assert first.ok
    assert second.call is not None
    assert second.call.features_shape == (1, 3, 64, 64)


def test_later_reports_of_a_problem_show_the_features_as_they_were() -> None:
    with roialign.watch() as report:
        for _ in range(2):
            roi_align(features(), PIXELS, 7)
    one = roialign.Report(report.calls[1:])
    assert one.calls[0].call is not None
    assert one.calls[0].call.input.shape[1] == 0, "kept once"
    assert one.calls[0].call.features_shape == (1, 3, 64, 64)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_watches_may_be_closed_in_any_order(order: tuple[int, ...]) -> None:
    before, kernel = torch.ops.torchvision.roi_align, repr(torch.library.get_kernel("torchvision::roi_align", "CPU"))
    stacks = [ExitStack() for _ in range(3)]
    reports = [stack.enter_context(roialign.watch()) for stack in stacks]
    maps, expected = features(), {}
    for position, closed in enumerate(order):
        roi_align(maps, PIXELS, 7, 1 / 16)
        stacks[closed].close()
        expected[closed] = position + 1
    roi_align(maps, PIXELS, 7, 1 / 16)
    assert [len(report.calls) for report in reports] == [expected[place] for place in range(3)]
    assert torch.ops.torchvision.roi_align is before
    assert repr(torch.library.get_kernel("torchvision::roi_align", "CPU")) == kernel
    assert lookers() == 0


def test_threads_lose_no_calls() -> None:
    threads, each = 6, 10
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for turn in range(each):
                roi_align(features(), PIXELS, 7, 1 / 16 if turn % 2 else 1.0)
                with roialign.watch() as own:
                    roialign.roi_align(features(), PIXELS, 7, 1 / 16)
                assert own.calls
        except BaseException as error:
            problems.append(error)

    running = [threading.Thread(target=work) for _ in range(threads)]
    with roialign.watch() as report:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    assert not problems
    assert report.examined == 2 * threads * each
    assert sum(problem.count for problem in report.problems) == threads * each // 2


def test_lines_are_named_by_the_folder_in_which_watching_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with roialign.watch() as report:
        roi_align(features(), PIXELS, 7, 1 / 16)
        os.chdir(tmp_path)
        roi_align(features(), PIXELS, 7, 1 / 16)
    first, second = (diagnosis.call_site for diagnosis in report.calls)
    assert first is not None
    assert second is not None
    assert first.startswith("test_watch_runs.py:")
    assert second.startswith("test_watch_runs.py:")


def test_watching_gives_each_diagnosis() -> None:
    noted: list[roialign.Diagnosis] = []
    with watching(noted.append):
        roi_align(features(), PIXELS, 7)
        assert [finding.code for finding in noted[0].findings] == ["RA101"]
        roi_align(features(), PIXELS, 7, 1 / 16)
    roi_align(features(), PIXELS, 7)
    assert len(noted) == 2


def test_a_mistake_of_a_check_does_not_stop_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from roialign.doctor import checks

    def broken(known: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(checks, "FEATURE_CHECKS", (broken,))
    with roialign.watch(), pytest.warns(roialign.RoIWarning, match=r"could not examine .*test_watch_runs.py:\d+: Zero"):
        pooled = roi_align(features(), PIXELS, 7, 1 / 16)
    assert pooled.shape == (2, 3, 7, 7)


def test_a_running_watch_can_be_read() -> None:
    with roialign.watch() as report:
        assert report.ok
        assert report.calls == []
        roi_align(features(), PIXELS, 7)
        assert not report.ok
        assert str(report).startswith("1 RoI call examined: 1 error.")
    assert repr(report).startswith("Report(calls=[Diagnosis(")
