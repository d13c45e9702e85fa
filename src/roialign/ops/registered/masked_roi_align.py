"""masked_roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered.linear import refuse_second_derivative
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import check_masked_values, check_operator, check_operator_masks

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned, bool masks_in_image"
_NO_GRADIENTS = (None,) * 4
SCHEMAS = {
    "masked_roi_align": (
        f"(Tensor input, Tensor rois, Tensor masks, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "masked_roi_align_backward": (
        f"(Tensor grad, Tensor rois, Tensor masks, SymInt images, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "masked_roi_align_backward_boxes": (
        f"(Tensor grad, Tensor input, Tensor rois, Tensor masks, {_OPTIONS}) -> (Tensor grad_rois, Tensor grad_masks)"
    ),
}

define(SCHEMAS)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::masked_roi_align", "CompositeExplicitAutograd")
def _forward(input: Tensor, rois: Tensor, masks: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, rois, masks, options)
    return reference.masked_roi_align(input, rois, masks, *options)


@torch.library.impl("roialign::masked_roi_align_backward", "CompositeExplicitAutograd")
def _backward(grad: Tensor, rois: Tensor, masks: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], *options[:2])
    check_operator_masks(masks, rois)
    check_masked_values(images, rois, *grad.shape[2:], *options)
    return reference.masked_roi_align_backward(grad, rois, masks, images, height, width, *options)


@torch.library.impl("roialign::masked_roi_align_backward_boxes", "CompositeExplicitAutograd")
def _backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, masks: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    check_grad(grad, rois)
    _check(input, rois, masks, (*grad.shape[2:], *options))
    return reference.masked_roi_align_backward_boxes(grad, input, rois, masks, *options)


def _check(input: Tensor, rois: Tensor, masks: Tensor, options: tuple[Any, ...]) -> None:
    check_operator(input, size_nhw(input), rois, options[:2], *options[2:4])
    check_operator_masks(masks, rois)
    check_masked_values(input.shape[0], rois, *options)


@torch.library.register_fake("roialign::masked_roi_align")
def _(
    input: Tensor, rois: Tensor, masks: Tensor, pooled_height: int, pooled_width: int, *options: Any
) -> tuple[Tensor, Tensor]:
    output = input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return output, rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::masked_roi_align_backward")
def _(grad: Tensor, rois: Tensor, masks: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


@torch.library.register_fake("roialign::masked_roi_align_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, masks: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return rois.new_empty(rois.shape), rois.new_empty(masks.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, masks, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, options
    ctx.save_for_backward(features if any(ctx.needs_input_grad[1:3]) else None, rois, masks)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois, masks = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = grad_rois = grad_masks = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.masked_roi_align_backward(grad, rois, masks, images, height, width, *ctx.options)
    if grad is not None and any(ctx.needs_input_grad[1:3]):
        both = _op.masked_roi_align_backward_boxes(grad, features, rois, masks, *ctx.options)
        grad_rois, grad_masks = (
            one if needed else None for one, needed in zip(both, ctx.needs_input_grad[1:3], strict=True)
        )
    return grad_input, grad_rois, grad_masks, None, None, *_NO_GRADIENTS


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, masks, _, _, _, *options = inputs
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(grad if any(ctx.needs_input_grad[1:3]) else None, rois, masks)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois, masks = ctx.saved_tensors
    grad_grad = grad_rois = grad_masks = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.masked_roi_align(grad_grad_input, rois, masks, *ctx.pooled_hw, *ctx.options)[0]
    if any(ctx.needs_input_grad[1:3]):
        both = _op.masked_roi_align_backward_boxes(grad, grad_grad_input, rois, masks, *ctx.options)
        grad_rois, grad_masks = (
            one if needed else None for one, needed in zip(both, ctx.needs_input_grad[1:3], strict=True)
        )
    return grad_grad, grad_rois, grad_masks, None, None, None, *_NO_GRADIENTS


torch.library.register_autograd("roialign::masked_roi_align", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd(
    "roialign::masked_roi_align_backward", _differentiate_backward, setup_context=_save_backward
)
torch.library.register_autograd("roialign::masked_roi_align_backward_boxes", refuse_second_derivative)
