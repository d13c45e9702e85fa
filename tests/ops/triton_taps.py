"""The operators of which bins have taps, and `roi_pool`, in Triton's interpreter; `triton_interpreter.py` runs this."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton.language as tl
from torch import Tensor

from roialign.ops.operators import OPERATORS
from roialign.ops.triton import functions_taps, lists, operators
from tests.ops import tolerances
from tests.ops.served import reference
from tests.ops.triton_calls import results

kernels = SimpleNamespace(**operators.IMPLEMENTATIONS)

NAN, INF = float("nan"), float("inf")
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
SIZES, SIZES_3D = (13, 19), (3, 5, 9)
IMAGES, SCALE = 2, 0.25
ROWS = (
    *([0, 3, 5, 40, 31], [1, -20, -10, 30, 90], [1, 10, 10, 3, 2], [0, 200, 200, 300, 300], [1, 0, 0, 76, 52]),
    *([0, 8, 8, 8, 8], [0, NAN, 1, 9, 9], [1, 1, 1, -INF, 9], [2, 1, 1, 9, 9], [-1, 1, 1, 9, 9], [0.5, 1, 1, 9, 9]),
)
ROWS_3D = (
    *([0, 3, 5, 1, 30, 14, 9], [1, -12, -6, -4, 15, 30, 11], [1, 10, 10, 9, 3, 2, 1], [0, 9, 9, 50, 20, 20, 60]),
    *([1, 0, 0, 0, 36, 20, 12], [0, 8, 8, 8, 8, 8, 8], [0, 1, 1, NAN, 9, 9, 9], [1, 1, 1, 1, 9, 9, INF]),
    *([2, 1, 1, 1, 9, 9, 9], [-1, 1, 1, 1, 9, 9, 9], [NAN, 1, 1, 1, 9, 9, 9]),
)
USABLE = slice(0, 6)
TOO_LARGE = [0, 1, 1, 1e10, 9]  # to be rounded to cells


class Case(NamedTuple):
    name: str
    dtype: torch.dtype
    channels_last: bool
    options: tuple[Any, ...]
    bins: tuple[int, ...] = (2, 3)


OPERATORS_OF_CASES = 4  # the first cases are one of each operator
CASES = (
    Case("ps_roi_align", F32, False, (SCALE, 2, False)),
    Case("prroi_pool", F32, False, (SCALE,), (4, 7)),
    Case("roi_align_3d", F16, True, (0.25, 0.3, 0.2, 1, True), (2, 1, 2)),
    Case("ps_roi_pool", F32, False, (SCALE, False, True)),
    Case("roi_align_3d", F32, False, (0.25, 0.3, 0.2, 2, True), (2, 2, 1)),
    Case("ps_roi_align", BF16, True, (SCALE, 0, True)),
    Case("ps_roi_align", F64, True, (SCALE, 0, False)),
    Case("ps_roi_align", F16, False, (SCALE, 3, True), (2, 2)),
    Case("prroi_pool", BF16, False, (SCALE,), (4, 7)),
    Case("prroi_pool", F64, True, (SCALE,), (1, 9)),
    Case("prroi_pool", F16, True, (SCALE,), (4, 7)),
    Case("roi_align_3d", BF16, True, (0.25, 0.25, 0.25, 0, False), (1, 2, 2)),
    Case("roi_align_3d", F64, False, (0.3, 0.25, 0.2, 0, True), (1, 2, 2)),
    Case("ps_roi_pool", BF16, True, (SCALE, True, False)),
    Case("ps_roi_pool", F64, False, (SCALE, True, True)),
    Case("ps_roi_pool", F16, True, (SCALE, False, False), (2, 2)),
)
LARGEST_CASES = (  # type, whether channels are last, legacy
    *((F32, False, False), (BF16, True, True), (F16, True, False), (F64, False, True)),
)


class Values(NamedTuple):
    features: Tensor
    rois: Tensor
    grad: Tensor
    size: tuple[int, ...]


def values_of(case: Case) -> Values:
    """Features, boxes, a gradient and the size of the features; hostile rows come last."""
    operator, generator = OPERATORS[case.name], torch.Generator().manual_seed(3)
    of_volumes = len(operator.bins) == 3
    cells = SIZES_3D if of_volumes else SIZES
    bins = torch.Size(case.bins).numel() if operator.definition.own_channels else 1
    features = torch.randn(IMAGES, 2 * bins, *cells, generator=generator, dtype=F64).to(case.dtype)
    if case.channels_last:
        features = features.movedim(1, -1).contiguous().movedim(-1, 1)
    rows = ROWS_3D if of_volumes else (*ROWS, TOO_LARGE) if case.name == "ps_roi_pool" else ROWS
    rois = torch.tensor(rows, dtype=F64 if case.dtype == F64 else F32)
    grad = torch.randn(len(rows), 2, *case.bins, generator=generator, dtype=F64).to(case.dtype)
    return Values(features, rois, grad, (IMAGES, *cells))


def check(case: Case) -> None:
    """Features, coverage and gradients against the reference in the type that is computed in, and what bad boxes give.

    In another type edges of bins may be rounded to other cells.
    """
    features, rois, grad, _ = values_of(case)
    exact, exact_rois, exact_grad = features.to(rois.dtype), rois[USABLE], grad[USABLE].to(rois.dtype)
    output, coverage, grad_features, *grad_rois = results(kernels, case.name, features, [rois], grad, case.options)
    expected = results(reference, case.name, exact, [exact_rois], exact_grad, case.options)
    # the interpreter cuts bfloat16 off where a GPU rounds
    cut = 2 if case.dtype == BF16 else 1
    assert torch.equal(output[USABLE].isnan(), expected[0].isnan()), "NaN where there is none, or the other way around"
    tolerances.assert_close_where_finite(output[USABLE], expected[0], cut * expected[0])
    tolerances.assert_close(coverage[USABLE], expected[1], torch.ones(1))
    tolerances.assert_close(grad_features, expected[2], cut * expected[2])
    bad = slice(USABLE.stop, None)
    assert bool(output[bad].isnan().all()), "a bad box gives numbers"
    assert bool(coverage[bad].isnan().all()), "a bad box has a coverage"
    for one, other in zip(grad_rois, expected[3:], strict=True):
        tolerances.assert_close(one[USABLE], other, other)
        assert not bool(one[bad].any()), "a bad box has a gradient"


def check_largest(dtype: torch.dtype, channels_last: bool, legacy: bool) -> None:
    """roi_pool, with a NaN and infinities: the same values and cells as the reference, and their gradient."""
    case = Case("ps_roi_pool", dtype, channels_last, (), (2, 3))
    features, rois, grad, size = values_of(case)
    features[0, :, 3, 4], features[1, 1, 2], features[1, :, 6:8, 5:9] = NAN, -INF, INF
    features[0, 0, 2, 2], features[0, 1, 2, 2] = NAN, -INF  # all that the last of the usable boxes reads
    options = (SCALE, legacy)
    grad = torch.cat([grad] * (features.shape[1] // grad.shape[1]), 1)
    output, coverage, maxima = kernels.roi_pool(features, rois, *case.bins, *options, True)
    exact, exact_rois = features.to(rois.dtype), rois[USABLE]
    expected = reference.roi_pool(exact, exact_rois, *case.bins, *options, True)
    assert torch.equal(output[USABLE].isnan(), expected[0].isnan()), "NaN in other places"
    assert torch.equal(output[USABLE].nan_to_num(7.0), expected[0].to(dtype).nan_to_num(7.0)), "not the largest"
    tolerances.assert_close(coverage[USABLE], expected[1], torch.ones(1))
    assert torch.equal(maxima[USABLE], expected[2]), "other cells are the largest"
    bad = slice(USABLE.stop, None)
    assert bool(output[bad].isnan().all()), "a bad box gives numbers"
    assert bool(coverage[bad].isnan().all()), "a bad box has a coverage"
    assert bool((maxima[bad] == -1).all()), "a bad box has a largest cell"
    found = kernels.roi_pool_backward(grad, maxima, rois, *size)
    of_features = reference.roi_pool_backward(grad[USABLE].to(rois.dtype), expected[2], exact_rois, *size)
    tolerances.assert_close(found, of_features, (2 if dtype == BF16 else 1) * of_features)
    assert kernels.roi_pool(features, rois[:1], 1, 1, *options, False)[2].numel() == 0


def check_special() -> None:
    """Tiles without room for their boxes and indices of 64 bits give the same bits; infinities stay where they are."""
    for case in CASES[:OPERATORS_OF_CASES]:
        operator = OPERATORS[case.name]
        features, rois, grad, size = values_of(case)
        rois, grad = rois[:3], grad[:3]
        check_gradient(operator.gradient, grad, (rois, *size, *operator.to_gradient(*case.options)))
        arguments = (features, rois, *case.bins, *case.options)
        output = getattr(kernels, case.name)(*arguments)[0]
        with mock.patch.object(functions_taps, "index_type", return_value=tl.int64):
            assert torch.equal(getattr(kernels, case.name)(*arguments)[0], output), f"{case.name}: other bits"
    _, rois, grad, size = values_of(CASES[0])
    maxima = torch.arange(grad.numel(), dtype=torch.int32).view(grad.shape) - 5
    check_gradient("roi_pool_backward", grad[:3], (maxima[:3], rois[:3], *size))


def check_gradient(name: str, grad: Tensor, arguments: tuple[Any, ...]) -> None:
    run = getattr(kernels, name)
    usual = run(grad, *arguments)
    no_room = mock.patch.object(lists, "LISTED_BOXES", 1)
    for changed in (no_room, mock.patch.object(functions_taps, "index_type", return_value=tl.int64)):
        with changed:
            assert torch.equal(run(grad, *arguments), usual), f"{name}: other bits"
    ones = grad.new_ones(()).expand(grad.shape)
    assert torch.equal(run(ones, *arguments), run(ones.contiguous(), *arguments)), f"{name}: other bits"
    grad = grad.clone()
    grad[0, 0, 0, 0], grad[1, 1, -1, -1] = INF, NAN
    found, expected = run(grad, *arguments), getattr(reference, name)(grad, *arguments)
    # not which kind: of a cell that a bin reads twice weights are added up first
    assert torch.equal(found.isfinite(), expected.isfinite()), f"{name}: not finite in other cells"


def main(count: int | None) -> None:
    """`count` cases of each operator, all without it."""
    for case in CASES[: count and OPERATORS_OF_CASES * count]:
        check(case)
    for of_largest in LARGEST_CASES[:count]:
        check_largest(*of_largest)
    if count is None:
        check_special()
