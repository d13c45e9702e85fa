"""prroi_pool and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.registered.roi_align import check_grad, refuse_second_derivative
from roialign.ops.validate import check_operator, check_values

SCHEMAS = {
    "prroi_pool": (
        "(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale)"
        " -> (Tensor output, Tensor coverage)"
    ),
    "prroi_pool_backward": (
        "(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, float spatial_scale) -> Tensor"
    ),
    "prroi_pool_backward_boxes": "(Tensor grad, Tensor input, Tensor rois, float spatial_scale) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"roialign::{_name}", _schema)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::prroi_pool", "CompositeExplicitAutograd")
def _prroi_pool(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, _size_nhw(input), rois, *options)
    return reference.prroi_pool(input, rois, *options)


@torch.library.impl("roialign::prroi_pool_backward", "CompositeExplicitAutograd")
def _prroi_pool_backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, scale: float) -> Tensor:
    check_grad(grad, rois)
    _check(grad, (images, height, width), rois, grad.shape[2], grad.shape[3], scale)
    return reference.prroi_pool_backward(grad, rois, images, height, width, scale)


@torch.library.impl("roialign::prroi_pool_backward_boxes", "CompositeExplicitAutograd")
def _prroi_pool_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, scale: float) -> Tensor:
    check_grad(grad, rois)
    _check(input, _size_nhw(input), rois, grad.shape[2], grad.shape[3], scale)
    return reference.prroi_pool_backward_boxes(grad, input, rois, scale)


def _size_nhw(input: Tensor) -> tuple[int, int, int]:
    return (input.shape[0], input.shape[2], input.shape[3]) if input.dim() == 4 else (0, 0, 0)


def _check(map_like: Tensor, size_nhw: tuple[int, int, int], rois: Tensor, ph: int, pw: int, scale: float) -> None:
    """Raise unless the operator was given what `roialign.prroi_pool` makes of its arguments."""
    check_operator(map_like, size_nhw, rois, (ph, pw), scale, 1)
    check_values(size_nhw[0], rois, ph, pw, scale, 1, False)


@torch.library.register_fake("roialign::prroi_pool")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, scale: float) -> tuple[Tensor, Tensor]:
    output = input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return output, rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::prroi_pool_backward")
def _(grad: Tensor, rois: Tensor, images: int, height: int, width: int, scale: float) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


@torch.library.register_fake("roialign::prroi_pool_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, scale: float) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape = features.shape
    ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.prroi_pool_backward(grad, rois, images, height, width, ctx.scale)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.prroi_pool_backward_boxes(grad, features, rois, ctx.scale)
    return grad_input, grad_rois, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, ctx.scale = inputs
    ctx.pooled_hw = grad.shape[2:]
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois = ctx.saved_tensors
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.prroi_pool(grad_grad_input, rois, *ctx.pooled_hw, ctx.scale)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.prroi_pool_backward_boxes(grad, grad_grad_input, rois, ctx.scale)
    return grad_grad, grad_rois, None, None, None, None


torch.library.register_autograd("roialign::prroi_pool", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd("roialign::prroi_pool_backward", _differentiate_backward, setup_context=_save_backward)
torch.library.register_autograd("roialign::prroi_pool_backward_boxes", refuse_second_derivative)
