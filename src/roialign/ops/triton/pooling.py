"""Operators of the table on a GPU: arguments are checked as everywhere, values of boxes by the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from roialign.ops.operators import OPERATORS, Operator
from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import check_form, check_grad_of
from roialign.ops.registered.pooling import Pooling
from roialign.ops.triton import functions_masked, functions_maxima, functions_rotated


class Functions(NamedTuple):
    """What kernels compute of one operator, as the methods of `Pooling` with these names do."""

    pool: Callable[[Tensor, Arguments], tuple[Tensor, Tensor]]
    scatter: Callable[..., Tensor]
    correlate: Callable[[Tensor, Tensor, Arguments], tuple[Tensor, ...]]


class PoolingOnGpu(Pooling):
    """The implementations of one operator; they do not wait for the values of boxes."""

    check = staticmethod(check_form)

    def __init__(self, operator: Operator, functions: Functions) -> None:
        super().__init__(operator)
        self.functions = functions

    def pool(self, input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
        return self.functions.pool(input, arguments)

    def scatter(self, grad: Tensor, arguments: Arguments, size: Sequence[int], input: Tensor | None) -> Tensor:
        if input is not None:
            check_grad_of(grad, input)
        return self.functions.scatter(grad, arguments, size, input)

    def correlate(self, grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
        check_grad_of(grad, input)
        return self.functions.correlate(grad, input, arguments)


FUNCTIONS = {
    "roi_align_rotated": Functions(functions_rotated.pool, functions_rotated.scatter, functions_rotated.correlate),
    "roi_align_max": Functions(functions_maxima.pool, functions_maxima.scatter, functions_maxima.correlate),
    "masked_roi_align": Functions(functions_masked.pool, functions_masked.scatter, functions_masked.correlate),
}


def implementations() -> dict[str, Callable[..., Any]]:
    """Of the operators above and their gradients, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for name, functions in FUNCTIONS.items():
        operator = OPERATORS[name]
        pooling = PoolingOnGpu(operator, functions)
        found[name], found[operator.gradient] = pooling.forward, pooling.backward
        found[operator.gradient_to_boxes] = pooling.backward_boxes
    return found
