"""The other operators on a GPU: arguments are checked as everywhere, values of boxes by the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops.operators import OPERATORS, Operator
from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import check_form, check_grad, check_grad_of, size_of
from roialign.ops.registered.pooling import Pooling
from roialign.ops.registered.roi_pool import check_maxima
from roialign.ops.triton import functions_masked, functions_maxima, functions_rotated, functions_taps
from roialign.ops.triton.functions_taps import TapRule
from roialign.ops.validate import check_operator, check_scale, describe

_MOST_CELLS = 1 << 31  # that int32 can number


class Functions(NamedTuple):
    """What kernels compute of one operator, as the methods of `Pooling` with these names do."""

    pool: Callable[[Tensor, Arguments], tuple[Tensor, Tensor]]
    scatter: Callable[..., Tensor]
    correlate: Callable[[Tensor, Tensor, Arguments], tuple[Tensor, ...]]


class _PoolingOnGpu(Pooling):
    """The implementations of one operator of the table; they do not wait for the values of boxes."""

    check = staticmethod(check_form)

    def __init__(self, operator: Operator, functions: Functions) -> None:
        super().__init__(operator)
        self._functions = functions

    def pool(self, input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
        return self._functions.pool(input, arguments)

    def scatter(self, grad: Tensor, arguments: Arguments, size: Sequence[int], input: Tensor | None) -> Tensor:
        if input is not None:
            check_grad_of(grad, input)
        return self._functions.scatter(grad, arguments, size, input)

    def correlate(self, grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
        if not self.operator.definition.own_channels:  # whose gradients have other channels, and were looked at
            check_grad_of(grad, input)
        return self._functions.correlate(grad, input, arguments)


def _of_taps(rule_of: Callable[..., TapRule]) -> Functions:
    """Of an operator of which bins have taps; which, `rule_of` its options says."""

    def pool(input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
        return functions_taps.pool(input, arguments.rois, rule_of(*arguments.options), arguments.bins)

    def scatter(grad: Tensor, arguments: Arguments, size: Sequence[int], _input: None) -> Tensor:
        return functions_taps.scatter(grad, arguments.rois, rule_of(*arguments.options), tuple(size))

    def correlate(grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor]:
        return (functions_taps.correlate(grad, input, arguments.rois, rule_of(*arguments.options)),)

    return Functions(pool, scatter, correlate)


def _of_volumes(z: float, y: float, x: float, ratio: int, aligned: bool) -> TapRule:
    shift = 0.5 if aligned else 0.0
    return TapRule("samples", (x, shift, y, shift, z, shift), max(ratio, 0), not aligned)


def _of_own_samples(scale: float, ratio: int, nan_if_empty: bool) -> TapRule:
    return TapRule("samples", (scale, 0.5) * 2, max(ratio, 0), own=True, nan_if_empty=nan_if_empty)


def _of_own_cells(scale: float, with_last: bool, _in_gradient: bool) -> TapRule:
    return TapRule("cells", (scale, 0.0) * 2, left_out=0 if with_last else 1, own=True)


def _of_integrals(scale: float) -> TapRule:
    return TapRule("integral", (scale, 0.0) * 2)


_FUNCTIONS = {
    "ps_roi_align": _of_taps(_of_own_samples),
    "ps_roi_pool": _of_taps(_of_own_cells),
    "prroi_pool": _of_taps(_of_integrals),
    "roi_align_3d": _of_taps(_of_volumes),
    "roi_align_rotated": Functions(functions_rotated.pool, functions_rotated.scatter, functions_rotated.correlate),
    "roi_align_max": Functions(functions_maxima.pool, functions_maxima.scatter, functions_maxima.correlate),
    "masked_roi_align": Functions(functions_masked.pool, functions_masked.scatter, functions_masked.correlate),
}


def _roi_pool(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_scale(scale)
    check_operator(input, size_of(input), rois, (ph, pw))
    if with_maxima and input.shape[2] * input.shape[3] >= _MOST_CELLS:
        raise FeatureMapError(
            f"RA306: expected a map of less than 2^31 cells, where a gradient is needed; got {describe(input)}. Pool "
            "parts of it."
        )
    return functions_taps.pool_largest(input, rois, (ph, pw), scale, legacy, with_maxima)


def _roi_pool_backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    check_grad(grad, rois, ("height", "width"))
    check_operator(grad, (images, height, width), rois, grad.shape[2:])
    check_maxima(maxima, grad, images)
    return functions_taps.scatter_largest(grad, maxima, rois, (images, height, width))


def _implementations() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {"roi_pool": _roi_pool, "roi_pool_backward": _roi_pool_backward}
    for name, functions in _FUNCTIONS.items():
        one = _PoolingOnGpu(OPERATORS[name], functions)
        by_schema = (one.forward, one.backward, one.backward_boxes)
        found |= dict(zip(one.operator.schemas, by_schema, strict=False))  # not all have the last
    return found


IMPLEMENTATIONS = _implementations()
"""By the names of the operators and their gradients."""
