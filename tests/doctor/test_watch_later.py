"""`watch` on a GPU: nothing is read at the time of the call. Here the CPU plays the GPU, and reading raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import ops

import roialign
from roialign import FeatureGrid
from roialign.doctor.watch import examiner
from roialign.doctor.watch.later import LevelCall
from roialign.ops import calls, later

BOXES = torch.tensor([[0.0, 100.0, 100.0, 200.0, 200.0], [0.0, 300.0, 300.0, 400.0, 400.0]])
GRIDS = [FeatureGrid((64, 64), (16.0, 16.0)), FeatureGrid((32, 32), (32.0, 32.0), (0.5, 0.5))]
WAITS_FOR_THE_DEVICE = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_dim",
    "masked_select",
)


class NothingIsRead(TorchDispatchMode):
    """Raises where a number of a tensor would have to be known."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS_FOR_THE_DEVICE or masked:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def modes_see_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "modes_are_on", lambda: False)  # else its work would be hidden from them


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "must_wait", lambda features: True)


def features() -> Tensor:
    return torch.rand(1, 8, 64, 64)


def _broken(features: Tensor) -> Tensor:
    features[0, 3, 10, 12] = float("nan")
    return features


def _dead(features: Tensor) -> Tensor:
    features[:, :, :20, :20] = 0
    return features


CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "healthy": (lambda: ops.roi_align(features(), BOXES, 7, 1 / 16, 2, True), []),
    "RA101": (lambda: ops.roi_align(features(), BOXES, 7), ["RA101"]),
    "roi_pool": (lambda: ops.roi_pool(features(), BOXES, 7), ["RA101"]),
    "RA301": (lambda: ops.roi_align(_dead(features()), BOXES, 7, 1 / 16), ["RA301"]),
    "RA302": (lambda: ops.roi_align(_broken(features()), BOXES, 7, 1 / 16), ["RA302"]),
    "RA303": (lambda: ops.roi_align(torch.rand(1, 14, 14, 384), BOXES / 30, 7), ["RA303"]),
    "half": (lambda: ops.ps_roi_pool(torch.rand(1, 49, 64, 64, dtype=torch.float64), BOXES.double(), 7, 1 / 16), []),
}


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_read_at_the_time_of_the_call(name: str) -> None:
    call, expected = CASES[name]
    with roialign.watch() as report:
        with NothingIsRead():
            call()
        assert [[f.code for f in diagnosis.findings] for diagnosis in report.calls] == [expected]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_pool_regions_is_not_read_either(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes = (
        [_dead(features()), torch.rand(1, 8, 32, 32)],
        torch.tensor([[0.0, 9, 9, 99, 99], [0, 9, 9, 900, 900]]),
    )
    # the operator itself reads on the CPU, through Python; what is shown before it must not
    with roialign.watch() as report, roialign.set_policy("ignore"), NothingIsRead(), monkeypatch.context() as patch:
        patch.setattr(torch.ops.roialign.multi_scale_roi_align, "default", lambda *args: (boxes, boxes))
        roialign.pool_regions(maps, boxes, 7, GRIDS)
    assert [[f.code for f in diagnosis.findings] for diagnosis in report.calls] == [["RA301"], []]


def test_reading_at_once_is_caught_by_this_test() -> None:
    waits = "waits for the device"
    warns, raises = pytest.warns(roialign.RoIWarning, match=waits), pytest.raises(AssertionError, match=waits)
    with warns, raises, roialign.watch(), NothingIsRead():
        ops.roi_align(features(), BOXES, 7)


def without_what_was_checked(said: Any) -> Any:
    if isinstance(said, dict):
        return {name: without_what_was_checked(value) for name, value in said.items() if name != "checked"}
    return [without_what_was_checked(value) for value in said] if isinstance(said, list) else said


@pytest.mark.usefixtures("as_on_a_gpu")
def test_late_and_early_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [_dead(features()), _broken(features()), features()]
    scales = (1.0, 1 / 16, 1 / 8)

    checked: list[set[str]] = []

    def calls() -> Iterator[dict[str, Any]]:
        with roialign.watch() as report:
            for one in maps:
                for scale in scales:
                    ops.roi_align(one, BOXES, 7, scale)
        fixes = [fix for finding in report.findings for fix in (finding.fix, *finding.alternatives) if fix]
        checked.append({fix.checked for fix in fixes})
        for diagnosis in report.calls:
            yield without_what_was_checked(diagnosis.to_dict() | {"call_site": None})

    late = list(calls())
    monkeypatch.setattr(later, "must_wait", lambda features: False)
    assert late == list(calls())
    assert checked[0] == {""}, "the values of the features are not held"
    assert any(checked[1])


@pytest.mark.usefixtures("as_on_a_gpu")
def test_numbers_are_those_at_the_time_of_the_call() -> None:
    maps, boxes = features(), BOXES.clone()
    with roialign.watch() as report:
        ops.roi_align(maps, boxes, 7, 1 / 16)
        maps.zero_()
        boxes.mul_(100)
    assert report.ok


@pytest.mark.usefixtures("as_on_a_gpu")
def test_no_more_wait_than_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "MOST_WAITING", 3)
    read: list[str] = []
    real = examiner.facts_of
    monkeypatch.setattr(examiner, "facts_of", lambda level: (read.append("read"), real(level))[1])
    with roialign.watch() as report:
        for turn in range(5):
            ops.roi_align(features(), BOXES, 7, 1 / 16)
            assert len(read) == max(0, turn + 1 - 3)
    assert report.examined == 5


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_fault_of_the_gpu_is_not_raised_by_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(level: LevelCall) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(examiner, "facts_of", broken)
    with pytest.warns(roialign.RoIWarning, match=r"could not examine .* CUDA error"), roialign.watch() as report:
        ops.roi_align(features(), BOXES, 7, 1 / 16)
    assert report.calls == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_nothing_waits() -> None:
    maps, boxes = features().cuda(), BOXES.cuda()
    ops.roi_align(maps, boxes, 7)
    with roialign.watch() as report:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for scale in (1.0, 1 / 16):
                ops.roi_align(maps, boxes, 7, scale)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [[f.code for f in diagnosis.findings] for diagnosis in report.calls] == [["RA101"], []]
