"""What the kernels of the other operators have to do right on a GPU; each check raises AssertionError.

Compiling takes most of the time: adaptive sampling is checked in float32 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from tests.ops import tolerances
from tests.ops.triton_launches import POOLING, PoolingCall
from torch import Tensor

from roialign.ops.operators import OPERATORS, ROI_POOL, Operator
from roialign.ops.validate import usable_indices

from .checks import BAD_ROWS, DTYPES, HUGE_ROW, boxes, reference

DEVICE = "cuda"
BOXES, IMAGES = 40, 2
CHANNELS, OWN_CHANNELS = 20, 5  # of the output
CELLS, CELLS_3D = (33, 50), (9, 17, 20)
_op: Any = torch.ops.roialign


def operator_of(call: PoolingCall) -> Operator:
    return OPERATORS.get(call.name, ROI_POOL)


def cells_of(call: PoolingCall) -> tuple[int, ...]:
    return CELLS_3D if len(call.bins) == 3 else CELLS


def rois_of(call: PoolingCall, rows: Tensor) -> Tensor:
    """Rows [K, 5] of boxes as this operator takes them: in a volume x is z, too."""
    return rows[:, [0, 1, 2, 1, 3, 4, 3]] if len(call.bins) == 3 else rows


def values(call: PoolingCall, dtype: torch.dtype, rows: Tensor, *, channels_last: bool) -> tuple[Tensor, ...]:
    """Features, rois and upstream gradient."""
    generator = torch.Generator().manual_seed(len(rows))
    has_own = operator_of(call).definition.own_channels
    channels, read = (OWN_CHANNELS, OWN_CHANNELS * prod(call.bins)) if has_own else (CHANNELS, CHANNELS)
    features = torch.randn(IMAGES, *cells_of(call), read, generator=generator).movedim(-1, 1)
    features = features if channels_last else features.contiguous()
    grad = torch.randn(len(rows), channels, *call.bins, generator=generator)
    rois = rois_of(call, rows).to(DEVICE, torch.float64 if dtype == torch.float64 else torch.float32)
    return features.to(DEVICE, dtype), rois, grad.to(DEVICE, dtype)


def compute(ops: Any, call: PoolingCall, features: Tensor, rois: Tensor, grad: Tensor) -> list[Tensor]:
    """Features, coverage, the gradient to the features, and that to the boxes where there is one."""
    operator, size = operator_of(call), (features.shape[0], *features.shape[2:])
    if operator is ROI_POOL:
        output, coverage, maxima = ops.roi_pool(features, rois, *call.bins, *call.options, True)
        return [output, coverage, ops.roi_pool_backward(grad, maxima, rois, *size)]
    of_gradient = operator.to_gradient(*call.options)
    output, coverage = getattr(ops, call.name)(features, rois, *call.bins, *call.options)
    found = [output, coverage, getattr(ops, operator.gradient)(grad, rois, *size, *of_gradient)]
    if operator.moves_boxes:
        found.append(getattr(ops, operator.gradient_to_boxes)(grad, features, rois, *of_gradient))
    return found


def agree(dtype: torch.dtype) -> None:
    """Both layouts against the reference, in float64 but where boxes are rounded in their own type."""
    rows = boxes(BOXES, 1)
    for call in POOLING.values():
        rounds = operator_of(call).definition in (ROI_POOL.definition, OPERATORS["ps_roi_pool"].definition)
        exact = torch.float64 if dtype == torch.float64 or not rounds else torch.float32
        for channels_last in (True, False) if dtype == torch.float32 or 0 not in call.options else ():
            arguments = values(call, dtype, rows, channels_last=channels_last)
            found = compute(_op, call, *arguments)
            expected = compute(reference, call, *(one.to(exact) for one in arguments))
            compare(found, expected, arguments[1].dtype)
            repeats = (compute(_op, call, *arguments) for _ in range(2))
            assert all(same_bits(again, found) for again in repeats), f"{call.name}: repeats differ"


def same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """As torch.equal, a NaN being equal to itself."""
    return all(
        torch.equal(*(one.contiguous().view(torch.uint8) for one in pair)) for pair in zip(some, others, strict=True)
    )


def compare(found: Sequence[Tensor], expected: Sequence[Tensor], of_boxes: torch.dtype) -> None:
    output, coverage, grad_features, *grad_rois = found
    assert torch.equal(output.isnan(), expected[0].isnan()), "NaN in other places"
    tolerances.assert_close_where_finite(output, expected[0], expected[0])
    tolerances.assert_close(coverage, expected[1], torch.ones(1), of_boxes)
    tolerances.assert_close(grad_features, expected[2], expected[2])
    for one, other in zip(grad_rois, expected[3:], strict=True):  # not that of the huge box, as in checks.py
        tolerances.assert_close(one[HUGE_ROW + 1 :], other[HUGE_ROW + 1 :], other[HUGE_ROW + 1 :], of_boxes)


def hostile_boxes() -> None:
    """Boxes that cannot be pooled give NaN and no gradient, and change nothing for the others."""
    good = boxes(BOXES, 1)
    rows = torch.cat([good[:15], torch.tensor(BAD_ROWS), good[15:]])
    for call in POOLING.values():
        operator = operator_of(call)
        features, rois, grad = values(call, torch.float32, rows, channels_last=True)
        usable = operator.usable(rois, call.bins, *call.options) & usable_indices(rois, IMAGES)
        found = compute(_op, call, features, rois, grad)
        assert bool(found[0][~usable].isnan().all()), f"{call.name}: a bad box gives numbers"
        assert bool(found[1][~usable].isnan().all()), f"{call.name}: a bad box has a coverage"
        alone = compute(_op, call, features, rois[usable], grad[usable])
        assert same_bits([found[0][usable]], [alone[0]]), f"{call.name}: a bad box changes others"
        tolerances.assert_close(found[2], alone[2], alone[2])
        for grad_rois in found[3:]:
            assert not bool(grad_rois[~usable].any()), f"{call.name}: a bad box has a gradient"


def no_waits() -> None:
    """No host synchronisation in the operators and their gradients."""
    for call in POOLING.values():
        arguments = values(call, torch.float32, boxes(BOXES, 1), channels_last=True)
        compute(_op, call, *arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            compute(_op, call, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def pooling_checks() -> dict[str, Callable[[], Any]]:
    by_type = {
        f"other operators agree in {str(dtype).removeprefix('torch.')}": (lambda dtype=dtype: agree(dtype))
        for dtype in DTYPES
    }
    return {
        **by_type,
        "other operators, hostile boxes": hostile_boxes,
        "other operators, no host synchronisation": no_waits,
    }
