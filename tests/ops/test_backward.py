"""Gradients of `roi_align`: against torchvision, finite differences, and autograd through the reference."""

from math import prod

import pytest
import torch
import torchvision
from torch.autograd import gradcheck, gradgradcheck

import roialign

from .cases import Case, distance_to_kinks, random_case, random_cases
from .served import reference
from .tolerances import assert_close

SAMPLING = [(ratio, aligned) for ratio in range(4) for aligned in (False, True)]
EVERYWHERE = ("inside", "partly outside")


def smooth_case(ratio: int, aligned: bool) -> Case:
    """A small call whose samples stay away from the kinks, so that finite differences are right."""
    for case in random_cases(2000, first_seed=5000, sampling_ratio=ratio, aligned=aligned, largest=8):
        case = case.with_boxes(EVERYWHERE, 3)
        small = prod(case.input_shape) <= 150 and prod(case.output_size_hw) <= 9
        if small and min(case.input_shape[2:]) >= 4 and distance_to_kinks(case.rois(), *case.options) > 1e-3:
            return case
    raise AssertionError("no such case among 2000")


def pool_boxes(case: Case):
    """`roi_align` as a function of features and coordinates: the image index is no variable."""
    index = case.rois(torch.float64)[:, :1]

    def pool(features, coordinates):
        rois = torch.cat([index, coordinates], dim=1)
        return roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)

    return pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ratio", "aligned"), SAMPLING)
def test_equals_torchvisions_gradient(ratio, aligned, dtype):
    for case in random_cases(40, first_seed=1000 * ratio, sampling_ratio=ratio, aligned=aligned):
        rois, upstream = case.rois(dtype), case.grad(dtype)
        ours, theirs = (case.features(dtype).requires_grad_() for _ in range(2))
        roialign.roi_align(ours, rois, case.output_size_hw, *case.sampling).backward(upstream)
        torchvision.ops.roi_align(theirs, rois, case.output_size_hw, *case.sampling).backward(upstream)
        assert_close(ours.grad, theirs.grad, scale=theirs.grad)


@pytest.mark.parametrize(("ratio", "aligned"), SAMPLING)
def test_finite_differences_agree(ratio, aligned):
    case = smooth_case(ratio, aligned)
    features = case.features(torch.float64).requires_grad_()
    coordinates = case.rois(torch.float64)[:, 1:].requires_grad_()
    assert gradcheck(pool_boxes(case), (features, coordinates.detach()), atol=1e-7)
    assert gradcheck(pool_boxes(case), (features.detach(), coordinates), atol=1e-6)
    assert gradgradcheck(lambda values: pool_boxes(case)(values, coordinates.detach()), (features,), atol=1e-7)


@pytest.mark.parametrize(("ratio", "aligned"), [(0, True), (2, False)])
def test_the_backward_operator_has_a_gradient_of_its_own(ratio, aligned):
    case = smooth_case(ratio, aligned)
    index = case.rois(torch.float64)[:, :1]
    grad = case.grad(torch.float64).requires_grad_()
    coordinates = case.rois(torch.float64)[:, 1:].requires_grad_()
    images, _, height, width = case.input_shape

    def scatter(grad, coordinates):
        rois = torch.cat([index, coordinates], dim=1)
        return torch.ops.roialign.roi_align_backward(grad, rois, images, height, width, *case.sampling)

    assert gradcheck(scatter, (grad, coordinates), atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variable", ["features", "boxes"])
def test_a_second_gradient_through_that_of_the_boxes_is_refused(variable):
    case = smooth_case(2, True)
    features, coordinates = case.features(torch.float64), case.rois(torch.float64)[:, 1:]

    def grad_boxes(values):
        parts = (values, coordinates.clone().requires_grad_()) if variable == "features" else (features, values)
        output = pool_boxes(case)(*parts)
        return torch.autograd.grad(output.square().sum(), parts[1], create_graph=True)[0]

    values = features if variable == "features" else coordinates
    with pytest.raises(RuntimeError, match="no second derivative with respect to the boxes"):
        gradcheck(grad_boxes, (values.clone().requires_grad_(),), atol=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_explicit_backward_equals_autograd_through_the_reference(seed):
    case = random_case(seed, largest=24).with_boxes((*EVERYWHERE, "outside"), 6)
    features = case.features(torch.float64).requires_grad_()
    rois = case.rois(torch.float64).requires_grad_()
    upstream = case.grad(torch.float64)
    images, _, height, width = case.input_shape
    reference.roi_align(features, rois, *case.options)[0].backward(upstream)
    grad_input = reference.roi_align_backward(upstream, rois.detach(), images, height, width, *case.sampling)
    grad_rois = reference.roi_align_backward_boxes(upstream, features.detach(), rois.detach(), *case.sampling)
    assert_close(grad_input, features.grad, scale=features.grad)
    assert_close(grad_rois, rois.grad, scale=rois.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cpp_backward_equals_the_reference(dtype):
    for case in random_cases(100):
        images, _, height, width = case.input_shape
        arguments = (case.grad(dtype), case.rois(dtype), images, height, width, *case.sampling)
        expected = reference.roi_align_backward(*arguments)
        assert_close(torch.ops.roialign.roi_align_backward(*arguments), expected, scale=expected)


def test_the_registered_boxes_backward_equals_the_reference():
    for case in random_cases(50):
        arguments = (case.grad(), case.features(), case.rois(), *case.sampling)
        expected = reference.roi_align_backward_boxes(*arguments)
        assert_close(torch.ops.roialign.roi_align_backward_boxes(*arguments), expected, scale=expected)


def test_features_and_boxes_get_their_gradients_together_or_alone():
    case = random_case(7).with_boxes(EVERYWHERE, 4)

    def gradients(features_too: bool, boxes_too: bool):
        features, rois = case.features().requires_grad_(features_too), case.rois().requires_grad_(boxes_too)
        roialign.roi_align(features, rois, case.output_size_hw, *case.sampling).backward(case.grad())
        return features.grad, rois.grad

    both_features, both_boxes = gradients(True, True)
    assert torch.equal(gradients(True, False)[0], both_features)
    assert torch.equal(gradients(False, True)[1], both_boxes)
    assert gradients(True, False)[1] is None
    assert gradients(False, True)[0] is None
    assert torch.equal(both_boxes[:, 0], torch.zeros(4))


def test_a_list_of_boxes_gets_its_gradient():
    features = torch.randn(2, 3, 12, 12)
    boxes = [torch.tensor([[1.3, 2.2, 8.1, 9.7]], requires_grad=True) for _ in range(2)]
    roialign.roi_align(features, boxes, 3, aligned=True).square().sum().backward()
    assert all(float(image_boxes.grad.abs().min()) > 0 for image_boxes in boxes)


def test_samples_off_the_map_give_no_gradient():
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    rois = torch.tensor([[0.0, 50, 50, 60, 60], [0.0, -40, 1, -30, 4]], requires_grad=True)
    roialign.roi_align(features, rois, 2).sum().backward()
    assert not features.grad.any()
    assert not rois.grad.any()


def test_gradients_of_a_mean_reach_the_cells_that_were_read_and_sum_to_one():
    features = torch.zeros(1, 1, 8, 8, requires_grad=True)
    roialign.roi_align(features, torch.tensor([[0.0, 2, 2, 5, 6]]), (3, 2), sampling_ratio=2).mean().backward()
    assert features.grad.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert not features.grad[0, 0, :2].any()
    assert features.grad[0, 0, 2:6, 2:5].all()


def test_a_nan_gradient_stays_in_the_cells_of_its_box():
    upstream = torch.ones(2, 1, 1, 1)
    upstream[0] = float("nan")
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [0.0, 5, 5, 7, 7]])
    for scatter in (torch.ops.roialign.roi_align_backward, reference.roi_align_backward):
        grad = scatter(upstream, rois, 1, 9, 9, 1.0, 2, True)
        assert grad[0, 0, :3, :3].isnan().any()
        assert grad[0, 0, 4:, 4:].isfinite().all()
        assert grad[0, 0, 4:, 4:].sum().item() == pytest.approx(1.0, abs=1e-6)


def test_descent_on_the_boxes_finds_the_blob():
    """The gradient to the boxes has the right sign: ascent moves a box onto the bright spot."""
    rows = torch.arange(32.0)
    features = torch.exp(-((rows[:, None] - 20) ** 2 + (rows - 12) ** 2) / 40)[None, None]
    box = torch.tensor([[0.0, 14.0, 14.0, 20.0, 20.0]], requires_grad=True)
    before = roialign.roi_align(features, box, 1, sampling_ratio=4, aligned=True).item()
    for _ in range(60):
        value = roialign.roi_align(features, box, 1, sampling_ratio=4, aligned=True).sum()
        (gradient,) = torch.autograd.grad(value, box)
        box = (box + 4 * gradient).detach().requires_grad_()
    after = roialign.roi_align(features, box, 1, sampling_ratio=4, aligned=True).item()
    assert box[0, 0].item() == 0.0
    assert after > before + 0.1
