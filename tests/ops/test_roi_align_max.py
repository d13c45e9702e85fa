"""`roi_align(mode="max")` and `compat`: against the definition as loops, onnxruntime and torchvision."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torchvision
from torch import Tensor
from torch.autograd import gradcheck

import roialign
from roialign import errors
from roialign.ops import calls

from .cases import (
    Case,
    axis_positions,
    bilinear,
    brute_force_coverage,
    distance_to_kinks,
    kernel_cases,
    poisoned,
    random_case,
    random_cases,
)
from .peers import onnxruntime_roi_align
from .refusals import MAP, ROIS
from .served import reference
from .tolerances import assert_close, assert_close_where_finite, difference, magnitude

OP = torch.ops.roialign
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALF)
each_backend = pytest.mark.parametrize("pool", [OP.roi_align_max, reference.roi_align_max], ids=["C++", "reference"])
corners_or_not = pytest.mark.parametrize("corners", [False, True], ids=["samples", "corners"])


def brute_force(features: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *sampling) -> Tensor:
    """The definition as plain loops in float64: mmcv's, but for bins without samples, which are 0."""
    images = features.double().tolist()
    output = torch.zeros(len(rois), features.shape[1], pooled_height, pooled_width, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        rows, _ = axis_positions(y1, y2, pooled_height, *sampling)
        columns, _ = axis_positions(x1, x2, pooled_width, *sampling)
        for c, plane in enumerate(images[int(image)]):
            for (p, ys), (q, xs) in product(enumerate(rows), enumerate(columns)):
                output[k, c, p, q] = max((bilinear(plane, y, x) for y in ys for x in xs), default=0.0)
    return output


def kernels(features: Tensor, rois: Tensor, upstream: Tensor, case: Case, corners: bool) -> tuple[Tensor, ...]:
    return (
        *OP.roi_align_max(features, rois, *case.options, corners),
        OP.roi_align_max_backward(upstream, features, rois, *case.sampling, corners),
        OP.roi_align_max_backward_boxes(upstream, features, rois, *case.sampling, corners),
    )


def references(features: Tensor, rois: Tensor, upstream: Tensor, case: Case, corners: bool) -> tuple[Tensor, ...]:
    features, upstream = features.to(rois.dtype), upstream.to(rois.dtype)
    return (
        *reference.roi_align_max(features, rois, *case.options, corners),
        reference.roi_align_max_backward(upstream, features, rois, *case.sampling, corners),
        reference.roi_align_max_backward_boxes(upstream, features, rois, *case.sampling, corners),
    )


@each_backend
def test_equals_the_definition(pool):
    for case in random_cases(200, largest=14):
        features, rois = case.features(torch.float64), case.rois(torch.float64)
        output, coverage = pool(features, rois, *case.options, False)
        assert_close(output, brute_force(features, rois, *case.options), scale=features)
        expected = brute_force_coverage(rois, *case.input_shape[2:], *case.options)
        assert_close(coverage, expected, scale=torch.ones(()))


@pytest.mark.parametrize(("compat", "aligned"), [("onnx", True), ("onnx-10", False)])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_equals_onnxruntime(mode, compat, aligned):
    for case in random_cases(100, first_seed=300, aligned=aligned):
        features, rois = case.features(), case.rois()
        expected = onnxruntime_roi_align(features, rois, case, mode)
        found = roialign.roi_align(
            features, rois, case.output_size_hw, case.spatial_scale, case.sampling_ratio, mode=mode, compat=compat
        )
        assert_close(found, expected, scale=features)
        if mode == "max":  # a product of three numbers, rounded as there
            assert difference(found, expected) <= 2**-22 * magnitude(features)


def test_the_largest_corner_is_not_the_largest_sample():
    features, box = torch.ones(1, 1, 4, 4), [torch.tensor([[1.0, 1, 2, 2]])]
    assert roialign.roi_align(features, box, 1, 1.0, 1, mode="max").item() == 1.0
    assert roialign.roi_align(features, box, 1, 1.0, 1, mode="max", compat="mmcv").item() == 1.0
    assert roialign.roi_align(features, box, 1, 1.0, 1, mode="max", compat="onnx").item() == 1.0  # on a cell's centre
    assert roialign.roi_align(features, box, 1, 1.0, 1, mode="max", compat="onnx-10").item() == 0.25


@pytest.mark.parametrize("aligned", [False, True])
def test_presets_that_average_are_roi_align_with_their_own_aligned(aligned):
    for case in random_cases(30, aligned=aligned):
        features, rois = case.features(), case.rois()
        options = case.output_size_hw, case.spatial_scale, case.sampling_ratio
        expected = torchvision.ops.roi_align(features, rois, *options, aligned)
        for compat in ("detectron2", "mmcv", "onnx") if aligned else ("torchvision", "onnx-10"):
            assert_close(roialign.roi_align(features, rois, *options, compat=compat), expected, scale=features)
        given = roialign.roi_align(features, rois, *options, aligned, compat="torchvision")
        assert_close(given, expected, scale=features)


@corners_or_not
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_equal_the_reference(dtype, corners):
    one = torch.ones(())
    for case in [*random_cases(20, first_seed=50), *list(kernel_cases())[::9]]:
        features, upstream = case.features(dtype), case.grad(dtype)
        rois = case.rois(torch.promote_types(dtype, torch.float32))
        expected = references(features, rois, upstream, case, corners)
        last = torch.channels_last
        for layout in (torch.contiguous_format, last):
            tensors = features.contiguous(memory_format=layout), rois, upstream.contiguous(memory_format=layout)
            actual = kernels(*tensors, case, corners)
            for result, wanted, scale in zip(actual, expected, (features, one, *expected[2:]), strict=True):
                assert_close(result, wanted, scale)


def test_bins_of_more_samples_than_are_taken_at_once():
    case = Case(0, (1, 3, 90, 300), ((0.0, -3.0, -2, 310, 95), (0.0, 5, 5, 6, 6)), (3, 40), 1.0, 30, True)
    features, rois, upstream = case.features(), case.rois(), case.grad()
    for actual, expected in zip(
        kernels(features, rois, upstream, case, False), references(features, rois, upstream, case, False), strict=True
    ):
        assert_close(actual, expected, scale=expected)


@corners_or_not
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_finite_differences_agree(ratio, aligned, corners):
    for case in random_cases(2000, first_seed=70, sampling_ratio=ratio, aligned=aligned, largest=7):
        case = replace(case.with_boxes(("inside", "partly outside"), 2), output_size_hw=(2, 2))
        if min(case.input_shape[2:]) >= 3 and distance_to_kinks(case.rois(), *case.options) > 1e-3:
            break
    else:
        raise AssertionError("no such case among 2000")
    index = case.rois(torch.float64)[:, :1]

    def pool(features, coordinates):
        return OP.roi_align_max(features, torch.cat([index, coordinates], 1), *case.options, corners)[0]

    features = case.features(torch.float64)[:, :2].requires_grad_()  # random: two samples are never equal
    coordinates = case.rois(torch.float64)[:, 1:].requires_grad_()
    assert gradcheck(pool, (features, coordinates.detach()), atol=1e-7)
    assert gradcheck(pool, (features.detach(), coordinates), atol=1e-6)


def test_the_first_of_equal_samples_gets_the_gradient():
    features = torch.zeros(1, 1, 4, 4, requires_grad=True)
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    roialign.roi_align(features, boxes, 1, 1.0, 4, True, mode="max").sum().backward()
    assert features.grad[0, 0, 0, 0] == 1.0
    assert features.grad.sum() == 1.0


def test_where_the_largest_is_off_the_map_nothing_gets_a_gradient():
    features = torch.full((1, 1, 4, 4), -1.0, requires_grad=True)
    boxes = [torch.tensor([[-4.0, 0.0, 4.0, 4.0]], requires_grad=True)]
    output = roialign.roi_align(features, boxes, (1, 2), 1.0, 4, True, mode="max")
    assert output.flatten().tolist() == [0.0, -1.0]
    output[..., 0].sum().backward()
    assert not features.grad.any()
    assert not boxes[0].grad.any()


@corners_or_not
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_what_reads_it_and_nothing_else(value, corners):
    for case in random_cases(30, first_seed=600):
        features, rois = poisoned(case.features(), (value,), case.seed), case.rois()
        actual, expected = (
            pool(features, rois, *case.options, corners)[0] for pool in (OP.roi_align_max, reference.roi_align_max)
        )
        assert_close_where_finite(actual, expected, scale=features)


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_and_thread_counts_agree_to_the_bit(dtype):
    case = replace(random_case(3, sampling_ratio=2), input_shape=(2, 40, 40, 50), output_size_hw=(7, 7))
    case = replace(case, spatial_scale=0.25).with_boxes(("inside", "partly outside"), 200)
    tensors = case.features(dtype), case.rois(torch.promote_types(dtype, torch.float32)), case.grad(dtype)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(kernels(*tensors, case, False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_huge_adaptive_boxes_cost_no_more_than_their_samples_on_the_map():
    rois = torch.tensor([[0.0, -1e6, -1e6, 1e6, 1e6], [0, 0, 0, 3e6, 20]])
    features = torch.rand(1, 2, 20, 30) + 1
    output, _ = OP.roi_align_max(features, rois, 3, 3, 1.0, 0, True, False)
    assert output[0, 0, 1, 1] > 1
    assert output[0, 0, 0, 0] == 0


def test_the_module_and_its_words():
    module = roialign.RoIAlign(3, 0.5, 2, mode="max", compat="mmcv")
    expected = roialign.roi_align(MAP, ROIS, 3, 0.5, 2, True, mode="max")
    assert torch.equal(module(MAP, ROIS), expected)
    assert repr(module).endswith("aligned=False, mode='max', compat='mmcv')")
    assert repr(roialign.RoIAlign(3, 0.5, 2)).endswith("aligned=False)")


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph(backend):
    torch._dynamo.reset()
    module = roialign.RoIAlign((3, 2), 0.5, 2, mode="max", compat="onnx")
    features, rois = MAP.clone().requires_grad_(), ROIS.clone().requires_grad_()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    wanted = torch.autograd.grad(module(features, rois).square().sum(), (features, rois))
    found = torch.autograd.grad(compiled(features, rois).square().sum(), (features, rois))
    torch.testing.assert_close(found, wanted)


def test_observers_and_the_notice(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    roialign.roi_align(MAP, ROIS, 2, compat="detectron2")
    roialign.roi_align(MAP, ROIS, 2, mode="max", compat="mmcv")
    assert [call.aligned for call in seen] == [True, True]
    monkeypatch.setattr(calls, "observers", [])
    with roialign.set_policy("raise"), pytest.raises(errors.CoverageError, match=r"^RA"):
        roialign.roi_align(MAP, ROIS + torch.tensor([0.0, 90, 90, 90, 90]), 2, mode="max")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_code_serves_the_average_alone():
    scripted = torch.jit.script(roialign.roi_align)
    with pytest.raises(torch.jit.Error, match="RA506: a scripted roi_align supports only mode='avg'"):
        scripted(MAP, ROIS, [2, 2], mode="max")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "mean"}, r'expected mode "avg" or "max"; got \'mean\''),
        ({"compat": "caffe2"}, r"expected compat, one of 'torchvision', 'detectron2', .* got 'caffe2'"),
        ({"compat": "tensorflow"}, r"Use roialign\.crop_and_resize\("),
        ({"compat": "onnx-max"}, r'Use mode="max", compat="onnx"'),
        ({"compat": "torchvision", "mode": "max"}, r"a mode that torchvision has, 'avg'; got 'max'"),
        ({"compat": "detectron2", "mode": "max"}, r"a mode that detectron2 has"),
        ({"compat": "onnx-10", "aligned": True}, r'expected aligned=False with compat="onnx-10"'),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(errors.OptionError, match=f"^RA506: .*{message}"):
        roialign.roi_align(MAP, ROIS, 2, **arguments)


def test_bad_values_are_named():
    with pytest.raises(errors.BoxesValueError, match=r"^RA205: .*boxes\[0\]"):
        roialign.roi_align(MAP, ROIS * float("nan"), 2, mode="max")


def test_second_derivatives_are_refused():
    features = MAP.clone().requires_grad_()
    output = roialign.roi_align(features, ROIS, 2, mode="max").square().sum()
    (gradient,) = torch.autograd.grad(output, features, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^RA507: .*none with mode"):
        gradient.sum().backward()
