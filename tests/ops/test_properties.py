"""Identities of `roi_align` that hold for any call, searched by hypothesis with fixed seeds."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import roialign

from .cases import PLACES, Case, random_case
from .tolerances import assert_close, difference

DYADIC = 64  # coordinates are multiples of 1/64: mirroring and shifting them is then exact in float64
search = settings(max_examples=60, derandomize=True, deadline=None, database=None)
seeds = st.integers(0, 10_000)
aligned_or_not = st.booleans()


@st.composite
def dyadic_cases(draw, places=PLACES, strides=(1, 2, 4, 8, 16), **fixed) -> Case:
    """Cases whose every coordinate and position is exact, at a stride that is a power of two."""
    case = random_case(draw(seeds), largest=32, **fixed)
    stride = draw(st.sampled_from(strides))
    rounded = case.with_boxes(places, draw(st.integers(1, 6)))
    cells = [
        (row[0], *(round(value * case.spatial_scale * DYADIC) / DYADIC * stride for value in row[1:]))
        for row in rounded.boxes
    ]
    size_hw = tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(2))
    ratio = draw(st.sampled_from([1, 2, 4]))
    return Case(case.seed, case.input_shape, tuple(cells), size_hw, 1 / stride, ratio, case.aligned)


def pool(case: Case, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)


@search
@given(dyadic_cases(aligned=True), st.sampled_from(["horizontal", "vertical"]))
def test_a_mirrored_image_gives_mirrored_features(case, direction):
    """aligned=True is the convention under which the mirror image of x is W - x, W the image's width."""
    features, rois = case.features(torch.float64), case.rois(torch.float64)
    axis, low, high = (3, 1, 3) if direction == "horizontal" else (2, 2, 4)
    size = features.shape[axis] / case.spatial_scale
    mirrored = rois.clone()
    mirrored[:, low], mirrored[:, high] = size - rois[:, high], size - rois[:, low]
    actual = pool(case, features.flip(axis), mirrored).flip(axis)
    assert_close(actual, pool(case, features, rois), scale=features)


@search
@given(dyadic_cases(places=("inside", "degenerate")), st.integers(0, 9), st.integers(0, 9))
def test_moving_map_and_boxes_by_whole_strides_changes_nothing(case, cells_y, cells_x):
    """Boxes stay a cell inside the map, which is moved by padding."""
    inner = case.features(torch.float64)
    features = torch.nn.functional.pad(inner, (2, 2, 2, 2), mode="replicate")
    moved = torch.nn.functional.pad(features, (cells_x, 0, cells_y, 0))
    stride = 1 / case.spatial_scale
    rois = case.rois(torch.float64) + torch.tensor([0.0, 2, 2, 2, 2]) * stride
    shift = torch.tensor([0.0, cells_x, cells_y, cells_x, cells_y]) * stride
    assert_close(pool(case, moved, rois + shift), pool(case, features, rois), scale=features)


@search
@given(seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_linear_in_the_features(seed, a, b):
    case = random_case(seed, largest=24)
    rois = case.rois(torch.float64)
    f, g = case.features(torch.float64), torch.randn(case.input_shape, dtype=torch.float64)
    mixed = pool(case, a * f + b * g, rois)
    assert_close(mixed, a * pool(case, f, rois) + b * pool(case, g, rois), scale=10 * (f.abs() + g.abs()))


@search
@given(seeds, st.integers(-100, 100), st.sampled_from([torch.float32, torch.float64]))
def test_a_constant_map_gives_the_constant_inside(seed, value, dtype):
    case = random_case(seed, largest=24, aligned=True, sampling_ratio=seed % 3 + 1).with_boxes(("inside",), 6)
    features = torch.full(case.input_shape, value, dtype=dtype)
    output = pool(case, features, case.rois(dtype))
    assert_close(output, torch.full_like(output, value), scale=features)


@search
@given(seeds)
def test_coverage_is_a_share_and_the_pooled_ones(seed):
    """What samples on the map add to a map of ones is what coverage counts, the cell around the map included."""
    case = random_case(seed, largest=24)
    rois = case.rois(torch.float64)
    output, coverage = torch.ops.roialign.roi_align(
        torch.ones(case.input_shape, dtype=torch.float64), rois, *case.options
    )
    assert bool(((coverage >= 0) & (coverage <= 1)).all())
    assert difference(output.mean((1, 2, 3)), coverage) <= 1e-12


@search
@given(seeds)
def test_each_box_is_pooled_on_its_own(seed):
    """The order of the boxes, and which others there are, changes no bit."""
    case = random_case(seed, largest=24)
    features, rois = case.features(), case.rois()
    order = torch.randperm(len(rois))
    together = pool(case, features, rois)
    assert torch.equal(pool(case, features, rois[order]), together[order])
    assert torch.equal(pool(case, features, rois[:1]), together[:1])


@search
@given(seeds)
def test_the_backward_is_the_transpose_of_the_forward(seed):
    """<pool(f), g> = <f, backward(g)>."""
    case = random_case(seed, largest=24)
    features, rois, grad = (make(torch.float64) for make in (case.features, case.rois, case.grad))
    images, _, height, width = case.input_shape
    scattered = torch.ops.roialign.roi_align_backward(grad, rois, images, height, width, *case.sampling)
    forward = (pool(case, features, rois) * grad).sum()
    size = (features.abs().amax() * grad.abs().sum()).reshape(1)
    assert_close((features * scattered).sum(), forward, scale=size)


@search
@given(seeds, st.integers(1, 4))
def test_scaling_boxes_and_stride_together_changes_nothing(seed, doublings):
    case = random_case(seed, largest=24)
    features, rois = case.features(), case.rois()
    larger = rois * torch.tensor([1.0, *4 * [2.0**doublings]])
    options = (case.spatial_scale / 2**doublings, case.sampling_ratio, case.aligned)
    assert torch.equal(roialign.roi_align(features, larger, case.output_size_hw, *options), pool(case, features, rois))
