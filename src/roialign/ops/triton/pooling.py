"""The operators of the table on a GPU: arguments are checked as everywhere, values of boxes by the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops.operators import OPERATORS, Operator
from roialign.ops.registered.checks import check_form, check_grad, size_of
from roialign.ops.registered.pooling import Pooling
from roialign.ops.registered.roi_pool import check_maxima
from roialign.ops.triton import functions_taps
from roialign.ops.triton.functions_taps import TapRule
from roialign.ops.validate import check_operator, check_own_channels, check_scale, describe

_MOST_CELLS = 1 << 31  # that int32 can number


class _OfTaps(Pooling):
    """The implementations of one operator of which bins have taps. `rule_of` its options says which."""

    def __init__(self, operator: Operator, rule_of: Callable[..., TapRule]) -> None:
        super().__init__(operator)
        self._rule_of = rule_of

    def forward(self, input: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        arguments = self._of_forward(rest)
        check_form(self.operator, input, size_of(input), arguments)
        if self.operator.definition.own_channels:
            check_own_channels(input, arguments.bins)
        return functions_taps.pool(input, arguments.rois, self._rule_of(*arguments.options), arguments.bins)

    def backward(self, grad: Tensor, *rest: Any) -> Tensor:
        tensors, rest = rest[: self.tensors], rest[self.tensors :]
        size, options = rest[: 1 + self.axes], rest[1 + self.axes :]
        arguments = self._of_gradient(grad, tensors, options)
        check_form(self.operator, grad, size, arguments)
        return functions_taps.scatter(grad, arguments.rois, self._rule_of(*arguments.options), size)

    def backward_boxes(self, grad: Tensor, input: Tensor, *rest: Any) -> Tensor:
        arguments = self._of_gradient(grad, rest[: self.tensors], rest[self.tensors :])
        check_form(self.operator, input, size_of(input), arguments)
        if self.operator.definition.own_channels:
            check_own_channels(input, arguments.bins, grad)
        return functions_taps.correlate(grad, input, arguments.rois, self._rule_of(*arguments.options))


def _of_volumes(z: float, y: float, x: float, ratio: int, aligned: bool) -> TapRule:
    shift = 0.5 if aligned else 0.0
    return TapRule("samples", (x, shift, y, shift, z, shift), max(ratio, 0), not aligned)


def _of_own_samples(scale: float, ratio: int, nan_if_empty: bool) -> TapRule:
    return TapRule("samples", (scale, 0.5) * 2, max(ratio, 0), own=True, nan_if_empty=nan_if_empty)


def _of_own_cells(scale: float, with_last: bool, _in_gradient: bool) -> TapRule:
    return TapRule("cells", (scale, 0.0) * 2, left_out=0 if with_last else 1, own=True)


_RULES: dict[str, Callable[..., TapRule]] = {
    "ps_roi_align": _of_own_samples,
    "ps_roi_pool": _of_own_cells,
    "prroi_pool": lambda scale: TapRule("integral", (scale, 0.0) * 2),
    "roi_align_3d": _of_volumes,
}


def _roi_pool(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_scale(scale)
    check_operator(input, size_of(input), rois, (ph, pw))
    if with_maxima and input.shape[2] * input.shape[3] >= _MOST_CELLS:
        raise FeatureMapError(
            f"RA306: expected a map of less than 2^31 cells, where a gradient is asked for; got {describe(input)}. "
            "Pool parts of it."
        )
    return functions_taps.pool_largest(input, rois, (ph, pw), scale, legacy, with_maxima)


def _roi_pool_backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    check_grad(grad, rois, ("height", "width"))
    check_operator(grad, (images, height, width), rois, grad.shape[2:])
    check_maxima(maxima, grad, images)
    return functions_taps.scatter_largest(grad, maxima, rois, (images, height, width))


def _implementations() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {"roi_pool": _roi_pool, "roi_pool_backward": _roi_pool_backward}
    for name, rule_of in _RULES.items():
        one = _OfTaps(OPERATORS[name], rule_of)
        by_schema = (one.forward, one.backward, one.backward_boxes)
        found |= dict(zip(one.operator.schemas, by_schema, strict=False))  # not all have the last
    return found


IMPLEMENTATIONS = _implementations()
"""By name, as registered."""
