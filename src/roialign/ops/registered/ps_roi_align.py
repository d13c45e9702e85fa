"""ps_roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.registered.roi_align import check_grad, refuse_second_derivative, size_nhw
from roialign.ops.validate import check_operator, check_own_channels, check_values

_OPTIONS = "float spatial_scale, int sampling_ratio"
SCHEMAS = {
    "ps_roi_align": (
        f"(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, {_OPTIONS}, bool nan_if_empty)"
        " -> (Tensor output, Tensor coverage)"
    ),
    "ps_roi_align_backward": (
        f"(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "ps_roi_align_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"roialign::{_name}", _schema)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::ps_roi_align", "CompositeExplicitAutograd")
def _ps_roi_align(input: Tensor, rois: Tensor, ph: int, pw: int, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, size_nhw(input), rois, (ph, pw), *options[:2])
    check_own_channels(input, (ph, pw))
    return reference.ps_roi_align(input, rois, ph, pw, *options)


@torch.library.impl("roialign::ps_roi_align_backward", "CompositeExplicitAutograd")
def _ps_roi_align_backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    check_grad(grad, rois)
    _check(grad, (images, height, width), rois, grad.shape[2:], *options)
    return reference.ps_roi_align_backward(grad, rois, images, height, width, *options)


@torch.library.impl("roialign::ps_roi_align_backward_boxes", "CompositeExplicitAutograd")
def _ps_roi_align_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    check_grad(grad, rois)
    _check(input, size_nhw(input), rois, grad.shape[2:], *options)
    check_own_channels(input, grad.shape[2:], grad)
    return reference.ps_roi_align_backward_boxes(grad, input, rois, *options)


def _check(map_like: Tensor, size: tuple[int, int, int], rois: Tensor, size_hw: Any, scale: float, ratio: int) -> None:
    check_operator(map_like, size, rois, size_hw, scale, ratio)
    check_values(size[0], rois, *size_hw, scale, ratio, True)


@torch.library.register_fake("roialign::ps_roi_align")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: Any) -> tuple[Tensor, Tensor]:
    channels = input.shape[1] // (pooled_height * pooled_width)
    return input.new_empty(rois.shape[0], channels, pooled_height, pooled_width), rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::ps_roi_align_backward")
def _(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1] * grad.shape[2] * grad.shape[3], height, width)


@torch.library.register_fake("roialign::ps_roi_align_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, *options, _nan_if_empty = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, options
    ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.ps_roi_align_backward(grad, rois, images, height, width, *ctx.options)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.ps_roi_align_backward_boxes(grad, features, rois, *ctx.options)
    return grad_input, grad_rois, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, *options = inputs
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois = ctx.saved_tensors
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.ps_roi_align(grad_grad_input, rois, *ctx.pooled_hw, *ctx.options, False)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.ps_roi_align_backward_boxes(grad, grad_grad_input, rois, *ctx.options)
    return grad_grad, grad_rois, None, None, None, None, None


_name = "roialign::ps_roi_align"
torch.library.register_autograd(_name, _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd(f"{_name}_backward", _differentiate_backward, setup_context=_save_backward)
torch.library.register_autograd(f"{_name}_backward_boxes", refuse_second_derivative)
