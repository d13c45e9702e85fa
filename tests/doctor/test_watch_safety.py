"""`watch`: where an operator would crash the process or read out of bounds, an error is raised in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision import ops

import roialign

NAN, INF = float("nan"), float("inf")
Pool = Callable[[Tensor, Tensor], Tensor]
SAMPLED: dict[str, Pool] = {
    "roi_align": lambda features, boxes: ops.roi_align(features, boxes, 7, 1.0, 2),
    "ps_roi_align": lambda features, boxes: ops.ps_roi_align(features, boxes, 7, 1.0, 2),
}
OTHERS: dict[str, Pool] = {
    "roi_pool": lambda features, boxes: ops.roi_pool(features, boxes, 7),
    "ps_roi_pool": lambda features, boxes: ops.ps_roi_pool(features, boxes, 7),
    "roi_align, adaptive": lambda features, boxes: ops.roi_align(features, boxes, 7),
}
FAMILY = {**SAMPLED, **OTHERS, "ps_roi_align, adaptive": lambda f, boxes: ops.ps_roi_align(f, boxes, 7)}


def features(images: int = 2, height: int = 16) -> Tensor:
    return torch.rand(images, 49, height, 16)


def codes(report: roialign.Report) -> list[list[str]]:
    return [[finding.code for finding in diagnosis.findings] for diagnosis in report.calls]


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("box", [[0, NAN, 0, 9, 9], [0, 0, 0, INF, 9], [0, -INF, 0, INF, 9]])
def test_a_sample_without_a_place_would_crash(name: str, box: list[float]) -> None:
    words = r"^RA205: stopped by roialign: .* would crash the process"
    with roialign.watch() as report, pytest.raises(roialign.RoIError, match=words):
        SAMPLED[name](features(), torch.tensor([box]))
    assert codes(report) == [["RA205"]]


@pytest.mark.parametrize("scale", [NAN, INF])
def test_a_scale_that_gives_no_place_would_crash(scale: float) -> None:
    boxes = torch.tensor([[0, 1.0, 1, 9, 9]])
    with roialign.watch() as report, pytest.raises(roialign.RoIError, match=r"^RA105: "):
        ops.roi_align(features(), boxes, 7, scale, 2)
    assert codes(report) == [["RA105"]]
    with roialign.watch() as report:
        ops.roi_align(features(), boxes, 7, NAN)  # adaptive: torchvision gives zeros
    assert codes(report) == [["RA105"]]


@pytest.mark.parametrize("name", OTHERS)
def test_where_torchvision_serves_them_they_are_served(name: str) -> None:
    boxes = torch.tensor([[0, NAN, 0, 9, 9], [1, 2, 2, 9, 9]])
    inputs = features()
    expected = OTHERS[name](inputs, boxes)
    with roialign.watch() as report:
        assert torch.equal(OTHERS[name](inputs, boxes), expected)
    assert codes(report) == [["RA205"]]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("index", [2.0, -1.0, 1e9, NAN])
def test_an_image_that_is_not_there_is_foreign_memory(name: str, index: float) -> None:
    boxes = torch.tensor([[0, 1, 1, 9, 9], [index, 1, 1, 9, 9]])
    words = r"RA206: stopped by roialign: 1 of 2 boxes .* read out of bounds"
    with roialign.watch() as report, pytest.raises(IndexError, match=words):
        FAMILY[name](features(), boxes)
    assert "RA206" in codes(report)[0]


@pytest.mark.parametrize("name", FAMILY)
def test_what_is_cut_to_an_image_of_the_batch_is_served(name: str) -> None:
    with roialign.watch() as report:
        FAMILY[name](features(), torch.tensor([[0.7, 1, 1, 9, 9], [-0.5, 1, 1, 9, 9]]))
    assert codes(report) == [["RA206"]]


@pytest.mark.parametrize("name", FAMILY)
def test_an_empty_map_would_crash(name: str) -> None:
    with roialign.watch() as report, pytest.raises(roialign.RoIError, match="RA306"):
        FAMILY[name](features(height=0), torch.tensor([[0.0, 1, 1, 9, 9]]))
    assert codes(report) == [["RA306"]]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*", "ignore::DeprecationWarning")
def test_scripted_and_compiled_code_is_stopped_too() -> None:
    torch._dynamo.reset()
    scripted = torch.jit.script(ops.roi_align)
    compiled = torch.compile(ops.roi_align, backend="aot_eager", fullgraph=True)
    bad = torch.tensor([[5.0, 1, 1, 9, 9]])
    with roialign.watch() as report:
        with pytest.raises(IndexError, match="RA206: stopped by roialign"):
            compiled(features(), bad, 7)
        with pytest.raises(Exception, match="RA206: stopped by roialign"):  # the interpreter's own type
            scripted(features(), bad, [7, 7])
    assert codes(report) == [["RA206"], ["RA206"]]


def test_nothing_is_left_behind_in_torch() -> None:
    """torch.compile warns of modules' global hooks, and torch forgets to forget some of them."""
    with roialign.watch():
        assert torch.nn.modules.module._has_any_global_hook()
    assert not torch.nn.modules.module._has_any_global_hook()
