"""roi_align_rotated and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.registered.roi_align import check_grad, refuse_second_derivative
from roialign.ops.validate import ROTATED, check_operator, check_rotated_values

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned, bool clockwise, bool radians"
_NO_GRADIENTS = (None,) * 5
SCHEMAS = {
    "roi_align_rotated": (
        f"(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "roi_align_rotated_backward": (
        f"(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "roi_align_rotated_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"roialign::{_name}", _schema)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::roi_align_rotated", "CompositeExplicitAutograd")
def _forward(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, rois, options)
    return reference.roi_align_rotated(input, rois, *options)


@torch.library.impl("roialign::roi_align_rotated_backward", "CompositeExplicitAutograd")
def _backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], options[0], options[1], ROTATED)
    check_rotated_values(images, rois, *grad.shape[2:], *options)
    return reference.roi_align_rotated_backward(grad, rois, images, height, width, *options)


@torch.library.impl("roialign::roi_align_rotated_backward_boxes", "CompositeExplicitAutograd")
def _backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    check_grad(grad, rois)
    _check(input, rois, (*grad.shape[2:], *options))
    return reference.roi_align_rotated_backward_boxes(grad, input, rois, *options)


def _check(input: Tensor, rois: Tensor, options: tuple[Any, ...]) -> None:
    size_nhw = (input.shape[0], input.shape[2], input.shape[3]) if input.dim() == 4 else (0, 0, 0)
    check_operator(input, size_nhw, rois, options[:2], options[2], options[3], ROTATED)
    check_rotated_values(input.shape[0], rois, *options)


@torch.library.register_fake("roialign::roi_align_rotated")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: Any) -> tuple[Tensor, Tensor]:
    output = input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return output, rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::roi_align_rotated_backward")
def _(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


@torch.library.register_fake("roialign::roi_align_rotated_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, options
    ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.roi_align_rotated_backward(grad, rois, images, height, width, *ctx.options)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_rotated_backward_boxes(grad, features, rois, *ctx.options)
    return grad_input, grad_rois, None, None, *_NO_GRADIENTS


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, *options = inputs
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois = ctx.saved_tensors
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.roi_align_rotated(grad_grad_input, rois, *ctx.pooled_hw, *ctx.options)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_rotated_backward_boxes(grad, grad_grad_input, rois, *ctx.options)
    return grad_grad, grad_rois, None, None, None, *_NO_GRADIENTS


torch.library.register_autograd("roialign::roi_align_rotated", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd(
    "roialign::roi_align_rotated_backward", _differentiate_backward, setup_context=_save_backward
)
torch.library.register_autograd("roialign::roi_align_rotated_backward_boxes", refuse_second_derivative)
