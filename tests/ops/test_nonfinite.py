"""NaN and infinite features and gradients: they reach what reads them, as in the reference, and nothing else.

`instruction_sets.py` holds every instruction set against the reference with NaN; here are the infinities.
"""

import math

import pytest
import torch

from .cases import Case, poisoned, random_cases
from .instruction_sets import HALF, channels_last, kernels, references
from .served import reference
from .tolerances import assert_close_where_finite, assert_same_kinds

INF, NAN = math.inf, math.nan
KINDS = {"nan": (NAN,), "infinite": (INF, -INF), "all": (NAN, INF, -INF)}
DTYPES = (torch.float32, torch.float64, *HALF)
SAMPLING = [(2, True), (0, False), (1, True)]

kinds = pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)


def results_of(case: Case, values: tuple[float, ...], dtype: torch.dtype, layout=torch.Tensor.contiguous):
    """Output and gradient to the features, from the kernels and from the reference, and the scale of each."""
    features, upstream = (poisoned(tensor, values, case.seed).to(dtype) for tensor in (case.features(), case.grad()))
    rois = case.rois(torch.promote_types(dtype, torch.float32))
    expected = references(features, rois, upstream, case)
    actual = kernels(layout(features), rois, layout(upstream), case)
    return (actual[0], expected[0], features), (actual[2], expected[2], expected[2])


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_finite_in_the_reference_is_so_and_nothing_else(values, dtype):
    for case in random_cases(20, first_seed=600):
        for layout in (torch.Tensor.contiguous, channels_last):
            for actual, expected, scale in results_of(case, values, dtype, layout):
                assert_close_where_finite(actual, expected, scale=scale)


@pytest.mark.parametrize(("ratio", "aligned"), SAMPLING)
def test_nan_is_where_the_reference_has_it(ratio, aligned):
    """Not so of infinities: weights of samples are merged before they meet one, of which one may have been 0."""
    for case in random_cases(20, first_seed=700, sampling_ratio=ratio, aligned=aligned):
        for actual, expected, _ in results_of(case, KINDS["nan"], torch.float32):
            assert_same_kinds(actual, expected)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_box_gets_no_finite_gradient_from_what_is_not_finite(value, dtype):
    for case in random_cases(20, first_seed=800):
        case = case.with_boxes(("inside", "partly outside"), 6)
        features = poisoned(case.features(dtype), (value,), case.seed)
        arguments = case.grad(dtype), features, case.rois(dtype), *case.sampling
        actual = torch.ops.roialign.roi_align_backward_boxes(*arguments)
        expected = reference.roi_align_backward_boxes(*arguments)
        assert_close_where_finite(actual, expected, scale=expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size_hw", [(1, 6), (1, 20), (5, 6)])
def test_a_channel_beside_one_that_is_not_finite_keeps_its_bits(size_hw, dtype):
    features = torch.randn(1, 70, 30, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    rois = torch.tensor([[0.0, 1, 2, 36, 25], [0, 4, 4, 11, 9]], dtype=torch.promote_types(dtype, torch.float32))
    spoilt = features.clone()
    spoilt[:, 1::2] = math.nan
    clean, other = (torch.ops.roialign.roi_align(maps, rois, *size_hw, 1.0, 4, True)[0] for maps in (features, spoilt))
    assert torch.equal(other[:, ::2], clean[:, ::2])
    assert other[:, 1::2].isnan().all()


def test_the_cases_are_poisoned_and_not_all_over():
    for values in KINDS.values():
        outputs = [results_of(case, values, torch.float32)[0][1] for case in random_cases(20, first_seed=600)]
        shares = torch.stack([output.isfinite().float().mean() for output in outputs])
        assert int(((shares > 0) & (shares < 1)).sum()) >= 10, shares
