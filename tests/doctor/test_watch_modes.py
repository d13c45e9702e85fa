"""What the program's own modes see is what the program does: nothing of what the doctor looks at."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import roialign
from roialign.ops import calls

torchvision = pytest.importorskip("torchvision")
FEATURES = torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(0))
OFF_THE_MAP = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [8.0, 8.0, 40.0, 40.0]])]
TURNED = [torch.tensor([[300.0, 300.0, 40.0, 20.0, 30.0]])]


class Dispatched(TorchDispatchMode):
    """Names the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    """Names the functions of torch that are called, and the attributes of tensors that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__qualname__", str(func)) + str(getattr(func, "__self__", "")))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def warned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", roialign.RoIWarning)
        yield


def of_roialign() -> Tensor:
    return roialign.roi_align(FEATURES, OFF_THE_MAP, 7)


def of_turned_boxes() -> Tensor:
    return roialign.roi_align_rotated(FEATURES, TURNED, 7)


def of_regions() -> Tensor:
    grid = roialign.FeatureGrid((64, 64), (4, 4))
    return roialign.pool_regions([FEATURES], OFF_THE_MAP, 7, grids=[grid])


def of_a_module() -> Tensor:
    network = nn.Conv2d(3, 8, 3, padding=1)
    return torchvision.ops.roi_align(network(FEATURES[:, :3]), OFF_THE_MAP, 7)  # type: ignore[no-any-return]


def of_a_call_that_is_refused() -> Tensor:
    return torchvision.ops.roi_align(FEATURES, OFF_THE_MAP, 7, sampling_ratio=200)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Dispatched, Called])
@pytest.mark.parametrize("call", [of_roialign, of_turned_boxes, of_regions, of_a_module, of_a_call_that_is_refused])
def test_a_watched_call_is_to_a_mode_what_it_is_unwatched(make: Callable[[], Any], call: Callable[[], Tensor]) -> None:
    seen = []
    for watched in (False, True):
        with roialign.watch() if watched else nullcontext() as report, make() as mode:
            call()
        seen.append(mode.names)
    assert len(seen[0]) > 0
    assert seen[1] == seen[0]
    assert report.examined == 1
    assert not report.ok


@pytest.mark.parametrize("make", [Dispatched, Called])
def test_the_notice_is_no_work_of_the_program(make: Callable[[], Any]) -> None:
    seen = []
    for policy in ("ignore", "warn"):
        with roialign.set_policy(policy), make() as mode:  # type: ignore[arg-type]
            of_roialign()
            of_regions()
        seen.append(mode.names)
    assert seen[1] == seen[0]


def test_the_doctor_has_modes_of_its_own() -> None:
    class Inner(Called):
        pass

    with Called() as outer, calls.unseen(), Inner() as inner:
        _ = FEATURES + 1
    assert len(inner.names) == 1
    assert outer.names == []


def test_modes_come_back_in_their_order() -> None:
    outer, inner = Called(), Dispatched()
    with outer, Called() as second, inner, Dispatched() as fourth:
        with calls.unseen():
            _ = FEATURES + 1
        assert [mode.names for mode in (outer, second, inner, fourth)] == [[], [], [], []]
        _ = FEATURES + 1
        assert torch.overrides._get_current_function_mode_stack() == [outer, second]
        assert [len(mode.names) for mode in (inner, fourth)] == [1, 1]


def test_modes_hear_of_the_program_again_after_a_look() -> None:
    with roialign.watch(), Dispatched() as mode:
        of_roialign()
        before = len(mode.names)
        _ = FEATURES + 1
    assert mode.names[before:] == ["aten.add.Tensor"]


def test_no_flops_are_counted_that_the_program_does_not_need() -> None:
    counted = []
    for watched in (False, True):
        with roialign.watch() if watched else nullcontext(), FlopCounterMode(display=False) as flops:
            of_a_module()
        counted.append(flops.get_total_flops())
    assert counted[0] == counted[1] > 0


def _always_recomputed(*_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.PREFER_RECOMPUTE


def _saved(_: Any, func: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    of_the_program = "roi_align" in str(func) or "convolution" in str(func)
    return CheckpointPolicy.MUST_SAVE if of_the_program else CheckpointPolicy.PREFER_RECOMPUTE


def _everything(*_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE


@pytest.mark.parametrize("policy", [None, _always_recomputed, _saved, _everything])
@pytest.mark.parametrize("library", ["roialign", "torchvision"])
def test_checkpoints_recompute_what_the_program_did(library: str, policy: Any) -> None:
    roi_align = torchvision.ops.roi_align if library == "torchvision" else roialign.roi_align
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    images = torch.rand(1, 3, 64, 64)

    def head(images: Tensor) -> Tensor:
        return roi_align(network(images), OFF_THE_MAP, 7).tanh()  # type: ignore[no-any-return]

    gradients = []
    for watched in (False, True):
        network.zero_grad()
        options = {} if policy is None else {"context_fn": lambda: create_selective_checkpoint_contexts(policy)}
        looking: AbstractContextManager[Any] = roialign.watch() if watched else nullcontext()
        with looking as report:
            checkpoint(head, images, use_reentrant=False, **options).sum().backward()
        gradients.append(network[0].weight.grad.clone())
    assert torch.equal(*gradients)
    assert report.examined == 1
