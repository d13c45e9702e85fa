"""How `roi_align` runs: types, strides, threads, huge boxes, many boxes."""

import importlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import Tensor

import roialign

from .cases import Case, random_case, random_cases
from .instruction_sets import kernels
from .served import reference
from .tolerances import assert_close, magnitude

BACKENDS = {"C++": torch.ops.roialign.roi_align, "reference": reference.roi_align}

each_backend = pytest.mark.parametrize("pool", BACKENDS.values(), ids=BACKENDS)


def from_every_second(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), math.nan, dtype=tensor.dtype)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def behind_an_offset(tensor: Tensor) -> Tensor:
    storage = torch.full((tensor.numel() + 7,), math.nan, dtype=tensor.dtype)
    storage[7:] = tensor.flatten()
    return storage[7:].view(tensor.shape)


def from_the_middle(tensor: Tensor) -> Tensor:
    return torch.nn.functional.pad(tensor, (1, 2), value=math.nan)[..., 1:-2]


def negated_lazily(tensor: Tensor) -> Tensor:
    """A view that torch negates when it is read: its memory holds -tensor."""
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed axes": lambda tensor: (
        tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))
    ),
    "every second": from_every_second,
    "behind an offset": behind_an_offset,
    "from the middle": from_the_middle,
    "negated lazily": negated_lazily,
}
MAP_LAYOUTS = {**LAYOUTS, "channels last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last)}


def gradients(features: Tensor, rois: Tensor, upstream: Tensor, case) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients of one call through the public function."""
    features, rois = features.detach().requires_grad_(), rois.detach().requires_grad_()
    output = roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)
    return output.detach(), *torch.autograd.grad(output, (features, rois), upstream)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", ["features", "boxes", "upstream"])
@pytest.mark.parametrize("layout", MAP_LAYOUTS)
def test_strides_change_nothing(layout, part, dtype):
    if layout == "channels last" and part == "boxes":
        pytest.skip("boxes have no channels")
    for case in random_cases(8, first_seed=300):
        tensors = {"features": case.features(dtype), "boxes": case.rois(dtype), "upstream": case.grad(dtype)}
        expected = gradients(*tensors.values(), case)
        tensors[part] = MAP_LAYOUTS[layout](tensors[part])
        output, grad_features, grad_rois = gradients(*tensors.values(), case)
        assert torch.equal(output, expected[0])
        assert torch.equal(grad_features, expected[1])
        assert_close(grad_rois, expected[2], scale=expected[2])  # torch sums in the order of the strides


def test_expanded_inputs_are_read_as_copies():
    case = random_case(304)
    one = torch.randn(1, 1, *case.input_shape[2:])
    features, rois = one.expand(case.input_shape), case.rois()[:1].expand(6, 5)
    upstream = torch.randn(1, 1, 1, 1).expand(6, case.input_shape[1], *case.output_size_hw)
    tensors = features, rois, upstream
    copies = [tensor.contiguous() for tensor in tensors]
    for actual, wanted in zip(gradients(*tensors, case), gradients(*copies, case), strict=True):
        assert_close(actual, wanted, scale=wanted)


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3), (1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 1, 8), (2, 3, 8, 1), (2, 3, 1, 1)])
def test_maps_without_strides_are_read_as_copies(shape, axes):
    """An expanded axis has stride 0, also if it has one cell only."""
    case = replace(random_case(305), input_shape=shape, spatial_scale=0.5).with_boxes(("inside",), 5)
    features = torch.randn([1 if axis in axes else size for axis, size in enumerate(shape)])
    features = features.as_strided(shape, [0 if axis in axes else step for axis, step in enumerate(features.stride())])
    tensors = case.rois(), case.grad()
    results, wanted = (kernels(maps, *tensors, case) for maps in (features, features.contiguous()))
    assert all(torch.equal(actual, expected) for actual, expected in zip(results, wanted, strict=True))


def test_outputs_are_contiguous_also_for_channels_last_features():
    features = torch.randn(2, 5, 9, 9).contiguous(memory_format=torch.channels_last)
    assert roialign.roi_align(features, torch.tensor([[1.0, 1, 1, 7, 7]]), 3).is_contiguous()


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(20))
def test_half_types_are_computed_in_float32_and_rounded_once(pool, dtype, seed):
    case = random_case(seed).with_boxes(("inside",), 5)
    features = case.features(dtype)
    output, coverage = pool(features, case.rois(), *case.options)
    expected, _ = pool(features.double(), case.rois(torch.float64), *case.options)
    assert output.dtype == dtype
    assert coverage.dtype == torch.float32
    assert_close(output, expected, scale=features)
    in_float32, _ = pool(features.float(), case.rois(), *case.options)
    assert torch.equal(output, in_float32.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(10))
def test_half_gradients_are_accumulated_in_float32_and_rounded_once(dtype, seed):
    case = random_case(seed).with_boxes(("inside",), 40)
    upstream = case.grad(dtype)
    _, grad_features, grad_rois = gradients(case.features(dtype), case.rois(), upstream, case)
    _, expected, expected_rois = gradients(case.features(dtype).float(), case.rois(), upstream.float(), case)
    assert grad_features.dtype == dtype
    assert torch.equal(grad_features, expected.to(dtype))
    assert grad_rois.dtype == torch.float32
    assert_close(grad_rois, expected_rois, scale=expected_rois)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_boxes_serve_half_features(dtype):
    features, rois = torch.randn(2, 3, 16, 16).to(dtype), torch.tensor([[1.0, 2, 3, 9, 12]])
    output = roialign.roi_align(features, rois.to(dtype), 3)
    assert torch.equal(output, roialign.roi_align(features, rois, 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("deterministic", [False, True])
def test_runs_and_thread_counts_agree_to_the_bit(deterministic):
    torch.use_deterministic_algorithms(deterministic)
    for case in random_cases(20, first_seed=70):
        case = case.with_boxes(("inside", "partly outside"), 64)
        tensors = case.features(), case.rois(), case.grad()
        runs = []
        for threads in (1, 2, 3, 5, 1):
            torch.set_num_threads(threads)
            runs.append(gradients(*tensors, case))
        for run in runs[1:]:
            assert all(torch.equal(actual, wanted) for actual, wanted in zip(run, runs[0], strict=True))


HUGE_BOXES = [
    ("from the origin", (0.0, 0.0, 1e7, 1e7)),
    ("around the map", (-5e6, -3e6, 5e6, 7e6)),
    ("far away", (1e7, 1e7, 2e7, 2e7)),
    ("one axis", (1.0, 0.0, 9.0, 1e8)),
]


@pytest.mark.kernels
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("box", [row[1] for row in HUGE_BOXES], ids=[row[0] for row in HUGE_BOXES])
def test_huge_adaptive_boxes_cost_no_more_than_their_samples_on_the_map(box, aligned):
    features, rois = torch.rand(1, 4, 64, 64) + 1, torch.tensor([[0.0, *box]] * 100)
    sampling = (1.0, 0, aligned)
    begin = time.perf_counter()
    output, coverage = torch.ops.roialign.roi_align(features, rois, 7, 7, *sampling)
    grad = torch.ops.roialign.roi_align_backward(torch.ones_like(output), rois, 1, 64, 64, *sampling)
    assert time.perf_counter() - begin < 1.0  # one by one, the samples of 100 boxes take 10 s and more
    expected, expected_coverage = reference.roi_align(features, rois[:1], 7, 7, *sampling)
    assert_close(output, expected.expand_as(output), scale=expected)
    assert_close(coverage, expected_coverage.expand(100), scale=expected_coverage)
    wanted = 100 * reference.roi_align_backward(torch.ones_like(expected), rois[:1], 1, 64, 64, *sampling)
    assert_close(grad, wanted, scale=wanted)


def test_huge_adaptive_boxes_have_the_exact_coverage():
    """A box of 1000 x 1000 cells of which the map, with the cell around it, takes 12 x 12 samples."""
    rois = torch.tensor([[0.0, -500, -500, 500, 500]], dtype=torch.float64)
    _, coverage = torch.ops.roialign.roi_align(torch.ones(1, 1, 10, 10).double(), rois, 1, 1, 1.0, 0, True)
    assert coverage.item() == pytest.approx((12 / 1000) ** 2, rel=1e-12)  # samples at -1, 0, ..., 10


def many_small() -> Case:
    """Tens of megabytes of plans, in random order of images and rows."""
    case = replace(random_case(21, sampling_ratio=2, aligned=True), input_shape=(3, 2, 30, 35))
    return case.with_boxes(("inside", "partly outside"), 12_000)


def some_large() -> Case:
    """The same from few boxes, between which there are small ones."""
    case = replace(random_case(22, sampling_ratio=0, aligned=True), input_shape=(2, 1, 12, 3000), spatial_scale=1.0)
    large = replace(case, output_size_hw=(3, 20)).with_boxes(("partly outside",), 200)
    return replace(large, boxes=tuple(chain(*((box, (box[0], 1, 2, 9, 8)) for box in large.boxes))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("make", [many_small, some_large])
def test_more_boxes_than_the_kernels_plan_at_once(make, dtype):
    """They work in passes, of which a part of the boxes takes one, so that all are held against the parts."""
    case, wide = make(), torch.promote_types(dtype, torch.float32)
    tensors = case.features(dtype), case.rois(wide), case.grad(dtype)
    output, coverage, grad_features, grad_rois = kernels(*tensors, case)
    size = math.ceil(len(case.boxes) / 12)
    parts = [kernels(tensors[0], *part, case) for part in zip(*(x.split(size) for x in tensors[1:]), strict=True)]
    assert torch.equal(output, torch.cat([part[0] for part in parts]))
    assert torch.equal(coverage, torch.cat([part[1] for part in parts]))
    assert torch.equal(grad_rois, torch.cat([part[3] for part in parts]))
    wide_grads = (
        torch.ops.roialign.roi_align_backward(grad.to(wide), rois, *case.image_size, *case.sampling)
        for grad, rois in zip(tensors[2].split(size), tensors[1].split(size), strict=True)
    )
    summed = sum(wide_grads)
    assert_close(grad_features, summed, scale=summed)
    assert magnitude(summed) > 0
    last = kernels(tensors[0].contiguous(memory_format=torch.channels_last), *tensors[1:], case)
    assert all(torch.equal(actual, wanted) for actual, wanted in zip(last[:2], (output, coverage), strict=True))


def test_the_reference_gives_the_same_in_one_chunk_and_in_many(monkeypatch):
    module = importlib.import_module("roialign.ops.reference.calls")
    for case in random_cases(12, first_seed=40):
        features, rois, upstream = case.features(), case.rois(), case.grad()
        images, _, height, width = case.input_shape
        results = []
        for values_at_once in (1 << 22, 64):
            monkeypatch.setattr(module, "VALUES_AT_ONCE", values_at_once)
            results.append(
                (
                    *reference.roi_align(features, rois, *case.options),
                    reference.roi_align_backward(upstream, rois, images, height, width, *case.sampling),
                    reference.roi_align_backward_boxes(upstream, features, rois, *case.sampling),
                )
            )
        for whole, chunked in zip(*results, strict=True):
            assert_close(chunked, whole, scale=whole)


def test_nothing_is_said_and_nothing_is_changed():
    case = random_case(5)
    features, rois = case.features(), case.rois()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)
    assert torch.equal(features, case.features())
    assert torch.equal(rois, case.rois())
