"""`enable`: torchvision's operators by this library's kernels, with torchvision's numbers, and taken back again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import ops

import roialign
from roialign.errors import BatchIndexError, BoxesValueError, DtypeError
from roialign.integrations import enable as module
from roialign.ops import backends
from tests.ops.cases import Case, random_cases
from tests.ops.tolerances import assert_close

pytestmark = pytest.mark.kernels

CASES = [case for case in random_cases(60) if min(case.input_shape) > 0]


@dataclass(frozen=True)
class Pool:
    """One of torchvision's functions, as a call of it."""

    call: Callable[[Tensor, Tensor, Case], Tensor]
    own_channels: bool = False

    def features(self, case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
        images, channels, height, width = case.input_shape
        bins = case.output_size_hw[0] * case.output_size_hw[1] if self.own_channels else 1
        generator = torch.Generator().manual_seed(case.seed)
        return torch.randn(images, channels * bins, height, width, generator=generator).to(dtype)


POOLS = {
    "roi_align": Pool(lambda x, rois, case: ops.roi_align(x, rois, case.output_size_hw, *case.sampling)),
    "roi_pool": Pool(lambda x, rois, case: ops.roi_pool(x, rois, case.output_size_hw, case.spatial_scale)),
    "ps_roi_align": Pool(
        lambda x, rois, case: ops.ps_roi_align(x, rois, case.output_size_hw, case.spatial_scale, case.sampling_ratio),
        own_channels=True,
    ),
    "ps_roi_pool": Pool(
        lambda x, rois, case: ops.ps_roi_pool(x, rois, case.output_size_hw, case.spatial_scale), own_channels=True
    ),
}
FORWARD = tuple(POOLS)
NAMES = (*FORWARD, *(f"_{name}_backward" for name in FORWARD))
FEATURES = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0.0, 1.0, 2.0, 9.0, 12.0], [1.0, 0.0, 0.0, 15.0, 7.0]])


def kernels() -> list[str]:
    """What serves each operator."""
    return [repr(torch.library.get_kernel(f"torchvision::{name}", "CPU")) for name in NAMES]


TORCHVISIONS = kernels()


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    assert kernels() == TORCHVISIONS
    yield
    roialign.disable()


def pooled_and_gradient(pool: Pool, features: Tensor, rois: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    features = features.detach().requires_grad_()
    pooled = pool.call(features, rois, case)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(pooled.shape, generator=generator).to(pooled.dtype)
    (gradient,) = torch.autograd.grad(pooled.nan_to_num(), features, upstream)
    return pooled.detach(), gradient


def assert_same(actual: Tensor, expected: Tensor, scale: Tensor) -> None:
    """NaN in the same places, and close elsewhere."""
    assert torch.equal(actual.isnan(), expected.isnan())
    assert_close(actual.nan_to_num(), expected.nan_to_num(), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_values_and_gradients_are_torchvisions(name: str, dtype: torch.dtype) -> None:
    pool = POOLS[name]
    for case in CASES:
        features, rois = pool.features(case, dtype), case.rois(dtype)
        expected, expected_gradient = pooled_and_gradient(pool, features, rois, case)
        with roialign.enable():
            assert not set(kernels()) & set(TORCHVISIONS)
            actual, gradient = pooled_and_gradient(pool, features, rois, case)
        assert_same(actual, expected, features)
        assert_same(gradient, expected_gradient, expected_gradient)


def test_the_further_results_are_torchvisions() -> None:
    """The largest cells and the channels that were pooled, which are there for the gradients."""
    deep = torch.rand(2, 3 * 6, 16, 16)

    def further() -> list[Tensor]:
        boxes = torch.cat([ROIS, torch.tensor([[0.0, 90.0, 90.0, 95.0, 99.0]])])  # with one off the map
        operators = torch.ops.torchvision
        return [
            operators.roi_pool(FEATURES, boxes, 1.0, 3, 2)[1],
            operators.ps_roi_align(deep, boxes, 1.0, 3, 2, 2)[1],
            operators.ps_roi_pool(deep, boxes, 1.0, 3, 2)[1],
        ]

    expected = further()
    with roialign.enable():
        for actual, wanted in zip(further(), expected, strict=True):
            assert actual.dtype == wanted.dtype
            assert torch.equal(actual, wanted)
            assert actual.stride() == wanted.stride()


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("forward_enabled", [False, True])
def test_either_library_can_go_back_what_the_other_went(name: str, forward_enabled: bool) -> None:
    pool, case = POOLS[name], Case(0, (2, 4, 16, 16), (), (3, 2), 1.0, 2, False)
    features = pool.features(case)
    _, expected = pooled_and_gradient(pool, features, ROIS, case)
    features.requires_grad_()
    if forward_enabled:
        with roialign.enable():
            pooled = pool.call(features, ROIS, case)
    else:
        pooled = pool.call(features, ROIS, case)
        roialign.enable()
    upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(pooled, features, upstream)
    assert_close(gradient, expected, expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    pool, case = POOLS[name], Case(0, (2, 4, 16, 16), (), (3, 2), 0.5, 2, True)
    features, rois = pool.features(case, dtype), ROIS.to(dtype)
    expected = pooled_and_gradient(pool, features.float(), ROIS, case)
    with roialign.enable():
        for boxes in (rois, ROIS):
            actual = pooled_and_gradient(pool, features, boxes, case)
            assert actual[0].dtype == actual[1].dtype == dtype
            assert_close(actual[0], expected[0], features)
    if dtype == torch.bfloat16:
        with pytest.raises(RuntimeError):
            pool.call(features, rois, case)


def test_channels_last_maps_and_views_give_the_same() -> None:
    case = Case(0, (2, 4, 16, 16), (), (3, 3), 1.0, 2, False)
    for view in (FEATURES.contiguous(memory_format=torch.channels_last), FEATURES[:, 1:3, ::2, 2:]):
        expected = pooled_and_gradient(POOLS["roi_align"], view, ROIS, case)
        with roialign.enable():
            actual = pooled_and_gradient(POOLS["roi_align"], view, ROIS, case)
        for one, wanted in zip(actual, expected, strict=True):
            assert_close(one, wanted, wanted)
            assert one.stride() == wanted.stride()


def test_boxes_get_no_gradient_and_there_is_no_second_one() -> None:
    features, rois = FEATURES.clone().requires_grad_(), ROIS.clone().requires_grad_()
    with roialign.enable():
        pooled = ops.roi_align(features, rois, 3)
        (gradient,) = torch.autograd.grad(pooled.sum(), features, create_graph=True)
        with pytest.raises(RuntimeError, match="double backwards"):
            gradient.sum().backward()
        ops.roi_align(features, rois, 3).sum().backward()
        assert rois.grad is None
        with pytest.raises(RuntimeError, match="does not require grad"):
            ops.roi_align(FEATURES, rois, 3).detach().sum().backward()


def test_autocast_casts_as_before() -> None:
    half = FEATURES.bfloat16()
    with torch.autocast("cpu"):
        expected = ops.roi_align(half, ROIS, 3)
        with roialign.enable():
            actual = ops.roi_align(half, ROIS, 3)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_close(actual, expected, half)


def test_options_that_only_torchvision_takes_go_to_torchvision() -> None:
    def served() -> list[Tensor]:
        return [
            *pooled_and_gradient(POOLS["roi_align"], FEATURES, ROIS, Case(0, (), (), (2, 2), 1.0, 200, True)),
            *pooled_and_gradient(POOLS["roi_align"], FEATURES, ROIS, Case(0, (), (), (2, 2), 0.0, 2, True)),
            ops.roi_pool(FEATURES, ROIS, 2, -1.0),
        ]

    expected = served()
    with roialign.enable():
        assert all(map(torch.equal, served(), expected))


@pytest.mark.parametrize("name", POOLS)
def test_wrong_boxes_are_named_instead_of_read(name: str) -> None:
    pool, case = POOLS[name], Case(0, (2, 4, 16, 16), (), (3, 2), 1.0, 2, False)
    features = pool.features(case)
    with roialign.enable():
        for index in (2.0, -1.0, 0.5):
            with pytest.raises(BatchIndexError, match=r"RA206: .* from 0 to 1; got 1 of 1 rows .*boxes\[0\]"):
                pool.call(features, torch.tensor([[index, 0.0, 0.0, 5.0, 5.0]]), case)
        for coordinate in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(BoxesValueError, match=r"RA205: .*boxes\[1\]"):
                pool.call(features, torch.tensor([[0.0, 0, 0, 5, 5], [0, 0, 0, coordinate, 5]]), case)
        with pytest.raises(DtypeError, match="RA505: expected float32 boxes"):
            pool.call(features, ROIS.double(), case)
        with pytest.raises(AssertionError):  # of torchvision's Python, as before
            pool.call(features, ROIS[:, 1:], case)


def test_no_boxes_give_no_rows() -> None:
    with roialign.enable():
        assert ops.roi_align(FEATURES, ROIS[:0], 3).shape == (0, 4, 3, 3)
        assert ops.roi_pool(FEATURES, [torch.empty(0, 4)] * 2, 3).shape == (0, 4, 3, 3)
        features = FEATURES.clone().requires_grad_()
        ops.roi_align(features, ROIS[:0], 3).sum().backward()
        assert features.grad is not None
        assert not features.grad.any()


def test_disable_puts_torchvisions_kernels_back() -> None:
    expected = ops.roi_align(FEATURES, ROIS, 7)
    roialign.enable()
    roialign.enable()
    assert kernels() != TORCHVISIONS
    roialign.disable()
    assert kernels() == TORCHVISIONS
    assert torch.equal(ops.roi_align(FEATURES, ROIS, 7), expected)
    roialign.disable()
    assert kernels() == TORCHVISIONS


def is_on() -> bool:
    return kernels() != TORCHVISIONS


def test_blocks_may_be_nested_and_overlap() -> None:
    with roialign.enable():
        with roialign.enable():
            assert is_on()
        assert is_on()
    assert not is_on()
    first, second = roialign.enable(), roialign.enable()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_on()
    second.__exit__(None, None, None)
    assert not is_on()


def test_a_block_within_leaves_what_was_called_before() -> None:
    roialign.enable()
    with roialign.enable():
        pass
    assert is_on()
    roialign.disable()
    with roialign.enable() as block:
        roialign.disable()
        assert not is_on()
        roialign.enable()
    assert is_on(), "the end of a block that was ended before ends nothing"
    roialign.disable()
    for _ in range(2):
        with block:
            assert is_on()
        assert not is_on()


def test_a_block_that_raises_ends() -> None:
    with pytest.raises(KeyError), roialign.enable():
        raise KeyError
    assert not is_on()


def test_all_threads_are_concerned_and_none_is_hurt_by_switching() -> None:
    expected, stop, problems = ops.roi_align(FEATURES, ROIS, 3), threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                assert_close(ops.roi_align(FEATURES, ROIS, 3), expected, FEATURES)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        with roialign.enable():
            stop.wait(0.0005)
        stop.wait(0.0005)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems


def test_modes_do_not_hear_of_what_serves_an_operator() -> None:
    heard: list[str] = []

    class Hears(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(str(func))
            return func(*args, **(kwargs or {}))

    scripted = torch.jit.script(_scripted)
    with roialign.enable(), Hears():
        scripted(FEATURES, ROIS)
    assert not [name for name in heard if "roialign" in name]


def _scripted(features: Tensor, rois: Tensor) -> Tensor:
    return ops.roi_align(features, rois, 3)


def test_where_nothing_was_built_it_is_said_and_torchvision_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    none = backends.Backend("C++", "cpu", "CPU", "the C++ kernels were not built", "Build them.")
    monkeypatch.setattr(module, "BACKENDS", (none,))
    with pytest.warns(UserWarning, match="not built, so torchvision's own kernels stay in use. Build") as warned:
        roialign.enable()
    assert warned[0].filename == __file__
    assert not is_on()


def test_without_torchvision_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.extension", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        roialign.enable()
    roialign.disable()


def test_without_torchvisions_operators_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.extension._has_ops", lambda: False)
    with pytest.raises(ImportError, match="pip install --upgrade torch torchvision"):
        roialign.enable()


IMPORTED_LATER = """
import roialign
roialign.enable()
import torch, torchvision
features = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)
assert torchvision.ops.roi_align(features, torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 1) == 1
"""


def test_torchvision_may_be_imported_later_and_the_program_end_while_it_is_enabled() -> None:
    child = [sys.executable, "-c", IMPORTED_LATER]
    done = subprocess.run(child, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
