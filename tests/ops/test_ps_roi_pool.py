"""What `ps_roi_pool` computes: torchvision's numbers, the definition in plain loops, and whose gradient it gives."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

import roialign
from roialign.ops import backends

from .bins import PS_ROI_POOL, bin_cases, brute_coverage, brute_ps_roi_pool, check_kernels, check_nan
from .cases import random_case, random_cases
from .served import reference
from .tolerances import assert_close

BACKENDS = {"C++": torch.ops.roialign, "reference": reference}
WHOLE_MAP = torch.tensor([[0.0, 0, 0, 4, 4]])

each_backend = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    assert backends.serving("ps_roi_pool", "cpu") == backends.serving("ps_roi_pool_backward", "cpu") == "C++"


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision(ops, dtype):
    for case in random_cases(300):
        features, rois = PS_ROI_POOL.features(case, dtype), case.rois(dtype)
        output, _ = ops.ps_roi_pool(features, rois, *case.output_size_hw, case.spatial_scale, False, False)
        assert_close(output, torchvision.ops.ps_roi_pool(features, rois, *PS_ROI_POOL.options(case)), scale=features)


@each_backend
@pytest.mark.parametrize("left_out", [0, 1])
def test_equals_the_definition(ops, left_out):
    for case in random_cases(60, largest=8):
        features, rois, scale = PS_ROI_POOL.features(case, torch.float64), case.rois(torch.float64), case.spatial_scale
        output, coverage = ops.ps_roi_pool(features, rois, *case.output_size_hw, scale, left_out == 0, False)
        expected = brute_ps_roi_pool(features, rois, case.output_size_hw, scale, left_out)
        assert_close(output, expected, scale=features)
        counted = brute_coverage(rois, *features.shape[2:], scale, with_end=False)
        assert_close(coverage, counted, scale=torch.ones(1))


@pytest.mark.kernels
def test_all_ways_through_the_kernels_give_what_the_reference_gives():
    for number, case in enumerate(bin_cases(PS_ROI_POOL)):
        check_kernels(PS_ROI_POOL, case)
        if number % 2:
            check_nan(PS_ROI_POOL, case, (torch.float32, torch.float64, torch.float16, torch.bfloat16)[number // 2 % 4])


def gradient(pool, features, rois, upstream, *options, **compat):
    leaf = features.clone().requires_grad_()
    pool(leaf, rois, *options, **compat).backward(upstream)
    return leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchvisions_gradient_where_it_is_asked_for(dtype):
    for case in random_cases(200):
        tensors = PS_ROI_POOL.features(case, dtype), case.rois(dtype), case.grad(dtype)
        ours = gradient(roialign.ps_roi_pool, *tensors, *PS_ROI_POOL.options(case), compat="torchvision")
        theirs = gradient(torchvision.ops.ps_roi_pool, *tensors, *PS_ROI_POOL.options(case))
        assert_close(ours, theirs, scale=theirs)


def test_the_gradient_is_that_of_the_result():
    """The result is the mean over 3 x 3 of 4 x 4 cells; torchvision's gradient is that of the mean over all 16."""
    ours = gradient(roialign.ps_roi_pool, torch.ones(1, 1, 4, 4), WHOLE_MAP, torch.ones(1, 1, 1, 1), 1)
    assert_close(ours[0, 0, :3, :3], torch.full((3, 3), 1 / 9), scale=torch.ones(1))
    assert not ours[0, 0, 3].any()
    assert not ours[0, 0, :, 3].any()
    theirs = gradient(torchvision.ops.ps_roi_pool, torch.ones(1, 1, 4, 4), WHOLE_MAP, torch.ones(1, 1, 1, 1), 1)
    assert torch.equal(theirs, torch.full((1, 1, 4, 4), 1 / 16))


def test_finite_differences_agree():
    case = replace(random_case(3), input_shape=(2, 2, 6, 7), output_size_hw=(2, 3), spatial_scale=0.5)
    case = case.with_boxes(("inside", "partly outside"), 4)
    features, rois = PS_ROI_POOL.features(case, torch.float64).requires_grad_(), case.rois(torch.float64)
    assert gradcheck(lambda values: roialign.ps_roi_pool(values, rois, *PS_ROI_POOL.options(case)), (features,))
    assert gradgradcheck(lambda values: roialign.ps_roi_pool(values, rois, *PS_ROI_POOL.options(case)), (features,))
    with pytest.raises(GradcheckError):
        gradcheck(lambda values: torchvision.ops.ps_roi_pool(values, rois, *PS_ROI_POOL.options(case)), (features,))


def test_the_second_derivative_of_torchvisions_gradient_is_its_own():
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 1, 1, 3, 4]], dtype=torch.float64)
    grad = torch.randn(2, 1, 2, 1, dtype=torch.float64, requires_grad=True)
    backward = torch.ops.roialign.ps_roi_pool_backward
    for with_last in (True, False):
        assert gradcheck(backward, (grad, rois, 1, 4, 4, 1.0, with_last))


@each_backend
def test_no_bin_reads_the_last_row_and_column(ops):
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 3] = features[0, 0, :, 3] = 100.0
    output, coverage = ops.ps_roi_pool(features, WHOLE_MAP, 1, 1, 1.0, False, False)
    assert output.item() == 0.0
    assert coverage.item() == 1.0  # the box is on the map, read or not


@each_backend
def test_a_map_of_one_row_gives_zeros_as_torchvision_has_it(ops):
    features = torch.ones(1, 1, 1, 8)
    rois = torch.tensor([[0.0, 1, 0, 6, 1]])
    assert ops.ps_roi_pool(features, rois, 1, 1, 1.0, False, False)[0].item() == 0.0
    assert torchvision.ops.ps_roi_pool(features, rois, 1).item() == 0.0
    grad = ops.ps_roi_pool_backward(torch.ones(1, 1, 1, 1), rois, 1, 1, 8, 1.0, False)
    assert not grad.any()
