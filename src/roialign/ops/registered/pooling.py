"""What torch.library asks of each operator of the table: schema, reference, fake and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from roialign.ops import native, reference
from roialign.ops.operators import Operator
from roialign.ops.reference import Arguments
from roialign.ops.registered.batching import batch
from roialign.ops.registered.checks import check_arguments, check_grad, size_of
from roialign.ops.registered.derivatives import differentiate, refuse_second_derivative, save_nothing
from roialign.ops.validate import check_own_channels

Gradients = tuple[Tensor | None, ...]


class Pooling:
    """The implementations of one operator, with their arguments in the order of the schemas.

    By default they run the reference. A backend overrides `pool`, `scatter` and `correlate`, and `check` where it must
    not wait for the values of boxes.
    """

    check = staticmethod(check_arguments)

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.axes = len(operator.bins)
        self.tensors = 2 if operator.beside else 1  # beside the features: rois, and what belongs to them

    def pool(self, input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
        output, coverage = reference.forward(self.operator.definition, input, arguments)
        return output, coverage

    def scatter(self, grad: Tensor, arguments: Arguments, size: Sequence[int], input: Tensor | None) -> Tensor:
        return reference.gradient_to_features(self.operator.definition, grad, arguments, size, input)

    def correlate(self, grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
        return reference.gradient_to_boxes(self.operator.definition, grad, input, arguments)

    def forward(self, input: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        arguments = self._of_forward(rest)
        self.check(self.operator, input, size_of(input), arguments)
        if self.operator.definition.own_channels:
            check_own_channels(input, arguments.bins)
        return self.pool(input, arguments)

    def backward(self, grad: Tensor, *rest: Any) -> Tensor:
        if not self.operator.is_linear:
            return self._backward_at(grad, *rest)
        tensors, rest = rest[: self.tensors], rest[self.tensors :]
        size, options = rest[: 1 + self.axes], rest[1 + self.axes :]
        arguments = self._of_gradient(grad, tensors, options)
        self.check(self.operator, grad, size, arguments)
        return self.scatter(grad, arguments, size, None)

    def _backward_at(self, grad: Tensor, input: Tensor, *rest: Any) -> Tensor:
        arguments = self._of_gradient(grad, rest[: self.tensors], rest[self.tensors :])
        self.check(self.operator, input, size_of(input), arguments)
        return self.scatter(grad, arguments, size_of(input), input)

    def backward_boxes(self, grad: Tensor, input: Tensor, *rest: Any) -> Any:
        arguments = self._of_gradient(grad, rest[: self.tensors], rest[self.tensors :])
        self.check(self.operator, input, size_of(input), arguments)
        if self.operator.definition.own_channels:
            check_own_channels(input, arguments.bins, grad)
        found = self.correlate(grad, input, arguments)
        return found if self.operator.beside else found[0]

    def fake_forward(self, input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        rois, bins = rest[0], rest[self.tensors : self.tensors + self.axes]
        channels = input.shape[1] // prod(bins) if self.operator.definition.own_channels else input.shape[1]
        return input.new_empty(rois.shape[0], channels, *bins), rois.new_empty(rois.shape[0])

    def fake_backward(self, grad: Tensor, *rest: Any) -> Tensor:
        if not self.operator.is_linear:
            return grad.new_empty(rest[0].shape)
        images, *cells = rest[self.tensors : self.tensors + 1 + self.axes]
        bins = prod(grad.shape[2:]) if self.operator.definition.own_channels else 1
        return grad.new_empty(images, grad.shape[1] * bins, *cells)

    def fake_backward_boxes(self, grad: Tensor, input: Tensor, rois: Tensor, *rest: Any) -> Any:
        found = (rois.new_empty(rois.shape), *(rois.new_empty(one.shape) for one in rest[: self.tensors - 1]))
        return found if self.operator.beside else found[0]

    def save_forward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        features, tensors, rest = inputs[0], inputs[1 : 1 + self.tensors], inputs[1 + self.tensors :]
        ctx.mark_non_differentiable(output[1])
        ctx.size, ctx.others = size_of(features), (None,) * len(rest)
        ctx.options = self.operator.to_gradient(*rest[self.axes :])
        needed = not self.operator.is_linear or any(ctx.needed[1 : 1 + self.tensors])
        ctx.save_for_backward(features if needed and self._has_use_for_features() else None, *tensors)

    def differentiate_forward(self, ctx: Any, grad: Tensor, _of_coverage: None) -> Gradients:
        features, *tensors = ctx.saved_tensors
        grad_input = None
        if ctx.needed[0]:
            told = ctx.size if self.operator.is_linear else ()
            given = tensors if self.operator.is_linear else (features, *tensors)
            grad_input = run(self.operator.gradient, grad, *given, *told, *ctx.options)
        return grad_input, *self._to_boxes(ctx, grad, features, tensors), *ctx.others

    def save_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, tensors, rest = inputs[0], inputs[1 : 1 + self.tensors], inputs[1 + self.tensors :]
        ctx.others, ctx.bins, ctx.options = (None,) * len(rest), grad.shape[2:], rest[1 + self.axes :]
        ctx.save_for_backward(grad if any(ctx.needed[1 : 1 + self.tensors]) else None, *tensors)

    def differentiate_backward(self, ctx: Any, grad_grad_input: Tensor) -> Gradients:
        """The gradient is linear in `grad`, and the forward is its transpose."""
        grad, *tensors = ctx.saved_tensors
        grad_grad = None
        if ctx.needed[0]:
            options = self.operator.from_gradient(*ctx.options)
            grad_grad = run(self.operator.name, grad_grad_input, *tensors, *ctx.bins, *options)[0]
        return grad_grad, *self._to_boxes(ctx, grad, grad_grad_input, tensors), *ctx.others

    def _to_boxes(self, ctx: Any, grad: Tensor | None, features: Tensor | None, tensors: list[Tensor]) -> Gradients:
        """The gradients to the rois and to what belongs to them, where they are needed."""
        needed = ctx.needed[1 : 1 + self.tensors]
        if not any(needed) or not self.operator.moves_boxes:
            return (None,) * self.tensors
        found = run(self.operator.gradient_to_boxes, grad, features, *tensors, *ctx.options)
        found = found if self.operator.beside else (found,)
        return tuple(one if wanted else None for one, wanted in zip(found, needed, strict=True))

    def _has_use_for_features(self) -> bool:
        return self.operator.moves_boxes or not self.operator.is_linear

    def _of_forward(self, rest: tuple[Any, ...]) -> Arguments:
        (rois, *beside), rest = rest[: self.tensors], rest[self.tensors :]
        return Arguments(rois, tuple(beside), tuple(rest[: self.axes]), tuple(rest[self.axes :]))

    def _of_gradient(self, grad: Tensor, tensors: tuple[Tensor, ...], options: tuple[Any, ...]) -> Arguments:
        rois, *beside = tensors
        check_grad(grad, rois, self.operator.bins)
        return Arguments(rois, tuple(beside), tuple(grad.shape[2:]), self.operator.from_gradient(*options))


def run(name: str, *arguments: Any) -> Any:
    """What a registered operator gives in a backward pass, past autograd unless that is to be differentiated, too."""
    op = getattr(torch.ops.roialign, name).default
    if torch.is_grad_enabled() or forward_ad._current_level >= 0:
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


told: list[Callable[[str], None]] = []
"""Called with the device type whenever the reference runs."""


def define(schemas: Mapping[str, str], implementations: Mapping[str, Any], fakes: Mapping[str, Any]) -> None:
    """Define operators, the reference serving wherever no backend does."""
    native.define(schemas)
    for name in schemas:
        torch.library.impl(f"roialign::{name}", "CompositeExplicitAutograd")(_telling(implementations[name]))
        torch.library.register_fake(f"roialign::{name}", fakes[name])
        batch(name)


def _telling(implementation: Callable[..., Any]) -> Callable[..., Any]:
    def serve(first: Any, *rest: Any) -> Any:
        like = first if isinstance(first, Tensor) else first[0]
        for tell in told:
            tell(like.device.type)
        return implementation(first, *rest)

    return serve


def register(operator: Operator) -> dict[str, Any]:
    """Register the operator and its gradients; gives the reference's implementation of each, by name."""
    pooling = Pooling(operator)
    implementations = {operator.name: pooling.forward, operator.gradient: pooling.backward}
    fakes = {operator.name: pooling.fake_forward, operator.gradient: pooling.fake_backward}
    if operator.moves_boxes:
        implementations[operator.gradient_to_boxes] = pooling.backward_boxes
        fakes[operator.gradient_to_boxes] = pooling.fake_backward_boxes
    define(operator.schemas, implementations, fakes)
    of_input, of_grad, of_grad_and_input = ((0,), (0,), (0, 1)) if operator.is_linear else ((), (0,), (0,))
    rounded = () if operator.moves_boxes else (1,)
    differentiate(operator.name, pooling.save_forward, pooling.differentiate_forward, of_input, rounded)
    if operator.is_linear:
        differentiate(operator.gradient, pooling.save_backward, pooling.differentiate_backward, of_grad, rounded)
    else:
        differentiate(operator.gradient, save_nothing, refuse_second_derivative, of_grad)
    if operator.moves_boxes:
        differentiate(operator.gradient_to_boxes, save_nothing, refuse_second_derivative, of_grad_and_input)
    return implementations
