"""Fakes and derivatives of operators that pool linearly, which differ in their options only."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor


def register(name: str, axes: int = 2, own_channels: bool = False, forward_only: tuple[Any, ...] = ()) -> None:
    """Register what torch.library asks beside an implementation, for the operator `name` and its two gradients.

    Their arguments are (input, rois, *bins, *options, *forward_only), (grad, rois, images, *cells, *options) and
    (grad, input, rois, *options), bins and cells along as many axes. With `own_channels` each bin is pooled from
    channels of its own. The derivatives take for `forward_only` the values given here.
    """
    forward, backward, backward_boxes = (
        getattr(torch.ops.roialign, f"{name}{suffix}") for suffix in ("", "_backward", "_backward_boxes")
    )

    def fake_forward(input: Tensor, rois: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        bins = rest[:axes]
        channels = input.shape[1] // prod(bins) if own_channels else input.shape[1]
        return input.new_empty(rois.shape[0], channels, *bins), rois.new_empty(rois.shape[0])

    def fake_backward(grad: Tensor, rois: Tensor, images: int, *rest: Any) -> Tensor:
        channels = grad.shape[1] * prod(grad.shape[2:]) if own_channels else grad.shape[1]
        return grad.new_empty(images, channels, *rest[:axes])

    def fake_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
        return torch.empty_like(rois)

    def save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        features, rois, *rest = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.others, ctx.input_shape = (None,) * len(rest), features.shape
        ctx.options = rest[axes : len(rest) - len(forward_only)]
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)

    def differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
        features, rois = ctx.saved_tensors
        images, _, *cells = ctx.input_shape
        grad_input = grad_rois = None
        if grad is not None and ctx.needs_input_grad[0]:
            grad_input = backward(grad, rois, images, *cells, *ctx.options)
        if grad is not None and ctx.needs_input_grad[1]:
            grad_rois = backward_boxes(grad, features, rois, *ctx.options)
        return grad_input, grad_rois, *ctx.others

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, rois, _, *rest = inputs
        ctx.others, ctx.bins = (None,) * (1 + len(rest)), grad.shape[2:]
        ctx.options = rest[axes:]
        ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)

    def differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
        """The backward is linear in `grad`, and the forward is its transpose."""
        grad, rois = ctx.saved_tensors
        grad_grad = grad_rois = None
        if ctx.needs_input_grad[0]:
            grad_grad = forward(grad_grad_input, rois, *ctx.bins, *ctx.options, *forward_only)[0]
        if ctx.needs_input_grad[1]:
            grad_rois = backward_boxes(grad, grad_grad_input, rois, *ctx.options)
        return grad_grad, grad_rois, *ctx.others

    name = f"roialign::{name}"
    torch.library.register_fake(name, fake_forward)
    torch.library.register_fake(f"{name}_backward", fake_backward)
    torch.library.register_fake(f"{name}_backward_boxes", fake_backward_boxes)
    torch.library.register_autograd(name, differentiate_forward, setup_context=save_forward)
    torch.library.register_autograd(f"{name}_backward", differentiate_backward, setup_context=save_backward)
    torch.library.register_autograd(f"{name}_backward_boxes", refuse_second_derivative)


def refuse_second_derivative(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Raise, where a gradient to the boxes is differentiated again."""
    raise RuntimeError(
        "RoIAlign has no second derivative with respect to the boxes; detach the boxes, or differentiate twice with "
        "respect to the features only"
    )
