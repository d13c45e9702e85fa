"""Calls of the operators beside `roi_align` and pyramids, as the checks of the Triton kernels make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.ops.operators import OPERATORS, ROI_POOL, Operator


class Call(NamedTuple):
    """A call of one operator, but for its values."""

    name: str
    options: tuple[Any, ...]
    cells: tuple[int, ...] = (50, 84)
    bins: tuple[int, ...] = (7, 7)
    mask_hw: tuple[int, int] = (28, 28)
    """Where the operator takes masks."""
    mask_dtype: torch.dtype = torch.bool

    @property
    def operator(self) -> Operator:
        return operator_of(self.name)


CALLS_OF_TAPS = {
    "ps_roi_align, ratio 2": Call("ps_roi_align", (0.0625, 2, False)),
    "ps_roi_align, adaptive": Call("ps_roi_align", (0.0625, 0, True)),
    "ps_roi_pool": Call("ps_roi_pool", (0.0625, False, True)),
    "prroi_pool": Call("prroi_pool", (0.0625,)),
    "roi_align_3d, ratio 2": Call("roi_align_3d", (0.25, 0.25, 0.25, 2, True), (16, 32, 32), (4, 4, 4)),
    "roi_align_3d, adaptive": Call("roi_align_3d", (0.25, 0.25, 0.25, 0, False), (16, 32, 32), (4, 4, 4)),
    "roi_pool": Call("roi_pool", (0.0625, True)),
}
"""By operator and how it samples: those with kernels of taps, and `roi_pool`."""

CALLS = CALLS_OF_TAPS | {
    "roi_align_rotated, ratio 2": Call("roi_align_rotated", (0.25, 2, False, True, False)),
    "roi_align_rotated, adaptive": Call("roi_align_rotated", (0.25, 0, False, False, True)),
    "roi_align_max, ratio 2": Call("roi_align_max", (0.25, 2, False, False)),
    "roi_align_max, adaptive": Call("roi_align_max", (0.25, 0, False, True)),
    "masked_roi_align, ratio 2": Call("masked_roi_align", (0.25, 2, False, False)),
    "masked_roi_align, adaptive": Call("masked_roi_align", (0.25, 0, False, True), mask_hw=(200, 336)),
}


def operator_of(name: str) -> Operator:
    return OPERATORS.get(name, ROI_POOL)


def results(
    of: Any, name: str, features: Tensor, tensors: Sequence[Tensor], grad: Tensor, options: Sequence[Any]
) -> list[Tensor]:
    """Features, coverage, the gradient to the features, those to the rois and to what belongs to them.

    `of` has the operators as attributes; `tensors` are the rois, and masks where the operator takes them.
    """
    operator, bins, size = operator_of(name), grad.shape[2:], (features.shape[0], *features.shape[2:])
    if operator is ROI_POOL:
        output, coverage, maxima = of.roi_pool(features, *tensors, *bins, *options, True)
        return [output, coverage, of.roi_pool_backward(grad, maxima, *tensors, *size)]
    output, coverage = getattr(of, name)(features, *tensors, *bins, *options)
    found = [output, coverage, to_features(of, name, features, tensors, grad, options)]
    if operator.moves_boxes:
        of_gradient = operator.to_gradient(*options)
        grads = getattr(of, operator.gradient_to_boxes)(grad, features, *tensors, *of_gradient)
        found += grads if operator.beside else [grads]
    return found


def to_features(
    of: Any, name: str, features: Tensor, tensors: Sequence[Tensor], grad: Tensor, options: Sequence[Any]
) -> Tensor:
    """The gradient to the features alone, of an operator of the table."""
    operator, size = operator_of(name), (features.shape[0], *features.shape[2:])
    given, told = ((), size) if operator.is_linear else ((features,), ())
    found: Tensor = getattr(of, operator.gradient)(grad, *given, *tensors, *told, *operator.to_gradient(*options))
    return found
