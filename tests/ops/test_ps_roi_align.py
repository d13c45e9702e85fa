"""What `ps_roi_align` computes: torchvision's numbers, the definition as loops, boxes without samples, gradients."""

from math import prod

import pytest
import torch
import torchvision
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign.ops import backends

from .bins import PS_ROI_ALIGN, bin_cases, brute_ps_roi_align, check_kernels, check_nan
from .cases import brute_force_coverage, distance_to_kinks, random_case, random_cases
from .served import reference
from .tolerances import assert_close

BACKENDS = {"C++": torch.ops.roialign, "reference": reference}
NO_AREA = torch.tensor([[0.0, 4, 4, 4, 4], [0, 4, 2, 4, 6], [0, 5, 5, 4, 4], [0, 2, 2, 6, 6]])

each_backend = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    for op in ("ps_roi_align", "ps_roi_align_backward", "ps_roi_align_backward_boxes"):
        assert backends.serving(op, "cpu") == "C++"


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", range(4))
def test_equals_torchvision(ops, ratio, dtype):
    """NaN for NaN where a box has no samples, if torchvision's numbers are asked for."""
    for case in random_cases(75, first_seed=1000 * ratio, sampling_ratio=ratio):
        features, rois = PS_ROI_ALIGN.features(case, dtype), case.rois(dtype)
        output, _ = ops.ps_roi_align(features, rois, *case.output_size_hw, case.spatial_scale, ratio, True)
        expected = torchvision.ops.ps_roi_align(features, rois, *PS_ROI_ALIGN.options(case))
        assert torch.equal(output.isnan(), expected.isnan())
        assert_close(output.nan_to_num(), expected.nan_to_num(), scale=features)


@each_backend
def test_equals_the_definition(ops):
    for case in random_cases(60, largest=8):
        features, rois = PS_ROI_ALIGN.features(case, torch.float64), case.rois(torch.float64)
        sampling = case.spatial_scale, case.sampling_ratio
        output, coverage = ops.ps_roi_align(features, rois, *case.output_size_hw, *sampling, False)
        assert_close(output, brute_ps_roi_align(features, rois, case.output_size_hw, *sampling), scale=features)
        counted = brute_force_coverage(rois, *features.shape[2:], *case.output_size_hw, *sampling, True)
        assert_close(coverage, counted, scale=torch.ones(1))


@pytest.mark.kernels
def test_all_ways_through_the_kernels_give_what_the_reference_gives():
    for number, case in enumerate(bin_cases(PS_ROI_ALIGN)):
        check_kernels(PS_ROI_ALIGN, case)
        if number % 2:
            check_nan(
                PS_ROI_ALIGN, case, (torch.float32, torch.float64, torch.float16, torch.bfloat16)[number // 2 % 4]
            )


@each_backend
def test_is_the_bin_of_roi_align_in_its_own_channel(ops):
    case = random_case(8, sampling_ratio=2, aligned=True).with_boxes(("inside", "partly outside"), 5)
    height, width = case.output_size_hw
    features, rois = PS_ROI_ALIGN.features(case), case.rois()
    output, _ = ops.ps_roi_align(features, rois, height, width, case.spatial_scale, 2, False)
    everything = roialign.roi_align(features, rois, (height, width), *case.sampling)
    for c in range(output.shape[1]):
        for p in range(height):
            for q in range(width):
                own = everything[:, (c * height + p) * width + q, p, q]
                assert_close(output[:, c, p, q], own, scale=features)


def test_boxes_without_samples_give_zeros_or_what_torchvision_gives():
    features = torch.rand(1, 8, 8, 8) + 1
    output = roialign.ps_roi_align(features, NO_AREA, 2)
    assert not output[:3].any()
    assert output[3].gt(1).all()
    as_torchvision = roialign.ps_roi_align(features, NO_AREA, 2, compat="torchvision")
    expected = torchvision.ops.ps_roi_align(features, NO_AREA, 2)
    assert expected.isnan().flatten(1).any(1).tolist() == [True, True, True, False]
    torch.testing.assert_close(as_torchvision, expected, equal_nan=True)
    for dtype in (torch.float16, torch.bfloat16):
        half = roialign.ps_roi_align(features.to(dtype), NO_AREA, 2, compat="torchvision")
        assert torch.equal(half.isnan(), expected.isnan())


@pytest.mark.parametrize("compat", [None, "torchvision"])
def test_boxes_without_samples_give_no_gradient(compat):
    features, rois = torch.rand(1, 8, 8, 8).requires_grad_(), NO_AREA[:3].clone().requires_grad_()
    roialign.ps_roi_align(features, rois, 2, compat=compat).sum().backward()
    assert not features.grad.any()
    assert not rois.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", range(4))
def test_equals_torchvisions_gradient(ratio, dtype):
    for case in random_cases(50, first_seed=1000 * ratio, sampling_ratio=ratio):
        ours, theirs = (PS_ROI_ALIGN.features(case, dtype).requires_grad_() for _ in range(2))
        roialign.ps_roi_align(ours, case.rois(dtype), *PS_ROI_ALIGN.options(case)).backward(case.grad(dtype))
        torchvision.ops.ps_roi_align(theirs, case.rois(dtype), *PS_ROI_ALIGN.options(case)).backward(case.grad(dtype))
        assert_close(ours.grad, theirs.grad, scale=theirs.grad)


@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_finite_differences_agree(ratio):
    for case in random_cases(2000, first_seed=5000, sampling_ratio=ratio, aligned=True, largest=8):
        case = case.with_boxes(("inside", "partly outside"), 3)
        small = prod(case.input_shape) <= 60 and 2 <= prod(case.output_size_hw) <= 6 and min(case.input_shape[2:]) >= 4
        if small and distance_to_kinks(case.rois(), *case.options) > 1e-3:
            break
    features, rois = PS_ROI_ALIGN.features(case, torch.float64), case.rois(torch.float64)

    def pool(features, coordinates):
        return roialign.ps_roi_align(features, torch.cat([rois[:, :1], coordinates], 1), *PS_ROI_ALIGN.options(case))

    coordinates = rois[:, 1:]
    assert gradcheck(pool, (features.requires_grad_(), coordinates), atol=1e-7)
    assert gradgradcheck(lambda values: pool(values, coordinates), (features,), atol=1e-7)
    assert gradcheck(pool, (features.detach(), coordinates.requires_grad_()), atol=1e-6)

    def scatter(grad, coordinates):
        rois_of = torch.cat([rois[:, :1], coordinates], 1)
        return torch.ops.roialign.ps_roi_align_backward(grad, rois_of, *case.image_size, case.spatial_scale, ratio)

    assert gradcheck(scatter, (case.grad(torch.float64).requires_grad_(), coordinates), atol=1e-6)


def test_a_second_gradient_through_that_of_the_boxes_is_refused():
    features, rois = torch.rand(1, 4, 8, 8), torch.tensor([[0.0, 1.2, 1.4, 5.1, 6.2]], requires_grad=True)
    output = roialign.ps_roi_align(features, rois, 2, sampling_ratio=2)
    (grad,) = torch.autograd.grad(output.square().sum(), rois, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative with respect to the boxes"):
        grad.sum().backward()
