"""What the kernels of taps, and of `roi_pool`, have to do right on a GPU, in the manner of `checks.py`.

Compiling takes most of the time: adaptive sampling is checked in float32 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from tests.ops import tolerances
from tests.ops.triton_calls import CALLS_OF_TAPS, Call, results
from torch import Tensor

from roialign.ops.operators import OPERATORS, ROI_POOL
from roialign.ops.validate import usable_indices

from .checks import BAD_ROWS, DTYPES, HUGE_ROW, boxes, reference

DEVICE = "cuda"
BOXES, IMAGES = 40, 2
CHANNELS, OWN_CHANNELS = 20, 5  # of the output
CELLS, CELLS_3D = (33, 50), (9, 17, 20)
_op: Any = torch.ops.roialign


def cells_of(call: Call) -> tuple[int, ...]:
    return CELLS_3D if len(call.bins) == 3 else CELLS


def rois_of(call: Call, rows: Tensor) -> Tensor:
    """Rows [K, 5] of boxes as this operator takes them: in a volume x is z, too."""
    return rows[:, [0, 1, 2, 1, 3, 4, 3]] if len(call.bins) == 3 else rows


def values(call: Call, dtype: torch.dtype, rows: Tensor, *, channels_last: bool) -> tuple[Tensor, ...]:
    """Features, rois and upstream gradient."""
    generator = torch.Generator().manual_seed(len(rows))
    has_own = call.operator.definition.own_channels
    channels, read = (OWN_CHANNELS, OWN_CHANNELS * prod(call.bins)) if has_own else (CHANNELS, CHANNELS)
    features = torch.randn(IMAGES, *cells_of(call), read, generator=generator).movedim(-1, 1)
    features = features if channels_last else features.contiguous()
    grad = torch.randn(len(rows), channels, *call.bins, generator=generator)
    rois = rois_of(call, rows).to(DEVICE, torch.float64 if dtype == torch.float64 else torch.float32)
    return features.to(DEVICE, dtype), rois, grad.to(DEVICE, dtype)


def computed(of: Any, call: Call, features: Tensor, rois: Tensor, grad: Tensor) -> list[Tensor]:
    return results(of, call.name, features, [rois], grad, call.options)


def agree(dtype: torch.dtype) -> None:
    """Both layouts against the reference, in float64 but where boxes are rounded in their own type."""
    rows = boxes(BOXES, 1)
    for call in CALLS_OF_TAPS.values():
        rounds = call.operator.definition in (ROI_POOL.definition, OPERATORS["ps_roi_pool"].definition)
        exact = torch.float64 if dtype == torch.float64 or not rounds else torch.float32
        for channels_last in (True, False) if dtype == torch.float32 or 0 not in call.options else ():
            arguments = values(call, dtype, rows, channels_last=channels_last)
            found = computed(_op, call, *arguments)
            expected = computed(reference, call, *(one.to(exact) for one in arguments))
            compare(found, expected, arguments[1].dtype)
            repeats = (computed(_op, call, *arguments) for _ in range(2))
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
    for call in CALLS_OF_TAPS.values():
        operator = call.operator
        features, rois, grad = values(call, torch.float32, rows, channels_last=True)
        usable = operator.usable(rois, call.bins, *call.options) & usable_indices(rois, IMAGES)
        found = computed(_op, call, features, rois, grad)
        assert bool(found[0][~usable].isnan().all()), f"{call.name}: a bad box gives numbers"
        assert bool(found[1][~usable].isnan().all()), f"{call.name}: a bad box has a coverage"
        alone = computed(_op, call, features, rois[usable], grad[usable])
        assert same_bits([found[0][usable]], [alone[0]]), f"{call.name}: a bad box changes others"
        tolerances.assert_close(found[2], alone[2], alone[2])
        for grad_rois in found[3:]:
            assert not bool(grad_rois[~usable].any()), f"{call.name}: a bad box has a gradient"


def no_waits() -> None:
    """No host synchronisation in the operators and their gradients."""
    for call in CALLS_OF_TAPS.values():
        arguments = values(call, torch.float32, boxes(BOXES, 1), channels_last=True)
        computed(_op, call, *arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            computed(_op, call, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def checks_of_taps() -> dict[str, Callable[[], Any]]:
    by_type = {
        f"bins of taps agree in {str(dtype).removeprefix('torch.')}": (lambda dtype=dtype: agree(dtype))
        for dtype in DTYPES
    }
    return {
        **by_type,
        "bins of taps, hostile boxes": hostile_boxes,
        "bins of taps, no host synchronisation": no_waits,
    }
