"""What `roi_pool` computes: torchvision's numbers, the definition in plain loops, ties, NaN, gradients."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign.ops import backends

from .bins import ROI_POOL, bin_cases, brute_coverage, brute_roi_pool, check_kernels, check_nan
from .cases import random_case, random_cases
from .served import reference
from .tolerances import assert_close

BACKENDS = {"C++": torch.ops.roialign, "reference": reference}
LOWEST = torch.finfo(torch.float32).min
NAN, INF = float("nan"), float("inf")

each_backend = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    assert backends.serving("roi_pool", "cpu") == backends.serving("roi_pool_backward", "cpu") == "C++"


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision_to_the_bit(ops, dtype):
    for case in random_cases(300):
        features, rois = case.features(dtype), case.rois(dtype)
        output, _, _ = ops.roi_pool(features, rois, *case.output_size_hw, case.spatial_scale, False, False)
        assert torch.equal(output, torchvision.ops.roi_pool(features, rois, *ROI_POOL.options(case)))


@each_backend
def test_equals_the_definition(ops):
    for case in random_cases(100, largest=8):
        features, rois = case.features(torch.float64), case.rois(torch.float64)
        output, coverage, _ = ops.roi_pool(features, rois, *case.output_size_hw, case.spatial_scale, False, False)
        assert torch.equal(output, brute_roi_pool(features, rois, case.output_size_hw, case.spatial_scale))
        counted = brute_coverage(rois, *features.shape[2:], case.spatial_scale, with_end=True)
        assert_close(coverage, counted, scale=torch.ones(1))


def test_the_cases_reach_every_kind_of_box():
    coverage = torch.cat(
        [ROI_POOL.run(c.features(), c.rois(), c.grad(), c, reference)["coverage"] for c in random_cases(100)]
    )
    assert min(int((coverage == 0).sum()), int((coverage == 1).sum())) > 25
    assert int(((coverage > 0) & (coverage < 1)).sum()) > 25


@pytest.mark.kernels
def test_all_ways_through_the_kernels_give_what_the_reference_gives():
    for number, case in enumerate(bin_cases(ROI_POOL)):
        check_kernels(ROI_POOL, case)
        check_nan(ROI_POOL, case, (torch.float32, torch.float64, torch.float16, torch.bfloat16)[number % 4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvisions_gradient(dtype):
    for case in random_cases(200):
        ours, theirs = (case.features(dtype).requires_grad_() for _ in range(2))
        roialign.roi_pool(ours, case.rois(dtype), *ROI_POOL.options(case)).backward(case.grad(dtype))
        torchvision.ops.roi_pool(theirs, case.rois(dtype), *ROI_POOL.options(case)).backward(case.grad(dtype))
        assert_close(ours.grad, theirs.grad, scale=theirs.grad)


@each_backend
def test_of_equal_values_the_first_in_row_major_order_gets_the_gradient(ops):
    """Two values only, so that most bins have several cells of the largest one."""
    for case in random_cases(40, first_seed=50):
        features, rois, upstream = case.features().gt(1).float(), case.rois(), case.grad()
        leaf = features.clone().requires_grad_()
        torchvision.ops.roi_pool(leaf, rois, *ROI_POOL.options(case)).backward(upstream)
        assert_close(ROI_POOL.run(features, rois, upstream, case, ops)["grad"], leaf.grad, scale=leaf.grad)


def test_finite_differences_agree():
    case = replace(random_case(3), input_shape=(2, 2, 6, 7), output_size_hw=(2, 3), spatial_scale=0.5)
    case = case.with_boxes(("inside", "partly outside"), 4)
    features, rois = case.features(torch.float64).requires_grad_(), case.rois(torch.float64)

    def pool(values):
        return roialign.roi_pool(values, rois, *ROI_POOL.options(case))

    assert gradcheck(pool, (features,))
    assert gradgradcheck(pool, (features,))


def test_without_kept_maxima_the_gradient_is_the_same():
    """A direct call of the operator that did not ask for them."""
    case = random_case(5).with_boxes(("inside",), 6)
    features = case.features().requires_grad_()
    options = *case.output_size_hw, case.spatial_scale, False
    grads = []
    for kept in (True, False):
        output = torch.ops.roialign.roi_pool(features, case.rois(), *options, kept)[0]
        grads.append(torch.autograd.grad(output, features, case.grad())[0])
    assert torch.equal(*grads)
    assert grads[0].any()


def test_maxima_are_kept_only_where_a_gradient_may_be_asked_for():
    features, rois = torch.rand(1, 2, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]])
    count = {kept: torch.ops.roialign.roi_pool(features, rois, 2, 2, 1.0, False, kept)[2].numel() for kept in (0, 1)}
    assert count == {0: 0, 1: 8}


@each_backend
@pytest.mark.parametrize(
    ("coordinate", "cell"), [(0.4, 0), (0.5, 1), (1.49, 1), (1.5, 2), (2.5, 3), (-0.5, -1), (-0.4, 0)]
)
def test_halves_are_rounded_away_from_zero(ops, coordinate, cell):
    features = torch.arange(8.0).repeat(8, 1)[None, None]  # the column's number
    rois = torch.tensor([[0.0, coordinate, 0, coordinate, 0]])
    output, coverage, _ = ops.roi_pool(features, rois, 1, 1, 1.0, False, False)
    assert output.item() == max(cell, 0)
    assert coverage.item() == float(cell >= 0)


@each_backend
def test_the_cell_that_a_box_ends_in_is_its_own_and_bins_share_cells(ops):
    features = torch.arange(8.0).repeat(8, 1)[None, None]
    output, _, _ = ops.roi_pool(features, torch.tensor([[0.0, 1, 0, 5, 0]]), 1, 2, 1.0, False, False)
    assert output.flatten().tolist() == [3.0, 5.0]  # five cells, 1 to 5: columns 1 to 3 and 3 to 5


@each_backend
def test_bins_off_the_map_are_zero(ops):
    features = torch.full((1, 1, 4, 4), -1.0)
    rois = torch.tensor([[0.0, 2, 0, 5, 3], [0, 9, 9, 12, 12]])
    output, coverage, maxima = ops.roi_pool(features, rois, 1, 2, 1.0, False, True)
    assert output.flatten().tolist() == [-1.0, 0.0, 0.0, 0.0]
    assert coverage.tolist() == [0.5, 0.0]
    assert maxima.flatten().tolist() == [2, -1, -1, -1]


@each_backend
def test_nan_and_minus_infinity_come_through_unless_torchvisions_numbers_are_asked_for(ops):
    features = torch.tensor([[NAN, -INF, 1.0, NAN], [2.0, -INF, 3.0, NAN]])[None, None]
    rois = torch.tensor([[0.0, x, 0, x, 1] for x in range(4)])
    output, _, maxima = ops.roi_pool(features, rois, 1, 1, 1.0, False, True)
    assert output.flatten().tolist()[1:3] == [-INF, 3.0]
    assert output.flatten().isnan().tolist() == [True, False, False, True]
    assert maxima.flatten().tolist() == [0, 1, 6, 3]
    legacy, _, maxima = ops.roi_pool(features, rois, 1, 1, 1.0, True, True)
    assert legacy.flatten().tolist() == [2.0, LOWEST, 3.0, LOWEST]
    assert maxima.flatten().tolist() == [4, -1, 6, -1]
    assert torch.equal(legacy, torchvision.ops.roi_pool(features, rois, 1))
    half = ops.roi_pool(features.half(), rois, 1, 1, 1.0, True, True)[0]
    assert torch.equal(half, torchvision.ops.roi_pool(features.half(), rois.half(), 1))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchvisions_numbers_are_those_of_torchvision_to_the_last(ops, dtype):
    for case in random_cases(60, first_seed=700):
        draw = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(case.seed))
        features = torch.where(draw < 0.4, NAN, torch.where(draw < 0.8, -INF, case.features())).to(dtype)
        rois, upstream = case.rois(dtype), case.grad(dtype)
        output, _, maxima = ops.roi_pool(features, rois, *case.output_size_hw, case.spatial_scale, True, True)
        leaf = features.clone().requires_grad_()
        expected = torchvision.ops.roi_pool(leaf, rois, *ROI_POOL.options(case))
        assert torch.equal(output, expected)
        expected.backward(upstream)
        grad = ops.roi_pool_backward(upstream, maxima, rois, *case.image_size)
        assert_close(grad, leaf.grad, scale=leaf.grad)


def test_nan_gradients_agree_with_max_pool2d():
    """A box of the whole map in one bin is a global max pool."""
    for value in (NAN, INF):
        features = torch.randn(1, 3, 5, 6)
        features[0, 1, 2, 3] = value
        ours, theirs = (features.clone().requires_grad_() for _ in range(2))
        output = roialign.roi_pool(ours, torch.tensor([[0.0, 0, 0, 5, 4]]), 1)
        expected = torch.nn.functional.max_pool2d(theirs, (5, 6))
        assert torch.equal(output.nan_to_num(nan=-99.0), expected.nan_to_num(nan=-99.0))
        output.sum().backward()
        expected.sum().backward()
        assert torch.equal(ours.grad, theirs.grad)


def test_maxima_out_of_range_are_not_followed():
    rois, grad = torch.zeros(1, 5), torch.ones(1, 1, 1, 4)
    maxima = torch.tensor([[[[-1, 3, 4, 2**31 - 1]]]], dtype=torch.int32)
    for ops in BACKENDS.values():
        assert ops.roi_pool_backward(grad, maxima, rois, 1, 2, 2).flatten().tolist() == [0, 0, 0, 1]
