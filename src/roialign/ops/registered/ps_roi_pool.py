"""ps_roi_pool and its gradient as torch.library knows them: schema, reference, fake, autograd.

`with_last` has bins reach the last row and column of the map, `with_last_in_gradient` the bins that the gradient
is of: torchvision has False and True, so that its gradient is not that of its forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import check_operator, check_own_channels, check_values_of_cells

SCHEMAS = {
    "ps_roi_pool": (
        "(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, bool with_last,"
        " bool with_last_in_gradient) -> (Tensor output, Tensor coverage)"
    ),
    "ps_roi_pool_backward": (
        "(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, float spatial_scale, bool with_last)"
        " -> Tensor"
    ),
}

define(SCHEMAS)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::ps_roi_pool", "CompositeExplicitAutograd")
def _ps_roi_pool(input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, *options: Any) -> tuple[Tensor, Tensor]:
    check_operator(input, size_nhw(input), rois, (ph, pw), scale, 1)
    check_own_channels(input, (ph, pw))
    check_values_of_cells(input.shape[0], rois, scale)
    return reference.ps_roi_pool(input, rois, ph, pw, scale, *options)


@torch.library.impl("roialign::ps_roi_pool_backward", "CompositeExplicitAutograd")
def _ps_roi_pool_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, scale: float, with_last: bool
) -> Tensor:
    check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], scale, 1)
    check_values_of_cells(images, rois, scale)
    return reference.ps_roi_pool_backward(grad, rois, images, height, width, scale, with_last)


@torch.library.register_fake("roialign::ps_roi_pool")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: Any) -> tuple[Tensor, Tensor]:
    channels = input.shape[1] // (pooled_height * pooled_width)
    return input.new_empty(rois.shape[0], channels, pooled_height, pooled_width), rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::ps_roi_pool_backward")
def _(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1] * grad.shape[2] * grad.shape[3], height, width)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, spatial_scale, _, with_last_in_gradient = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, (spatial_scale, with_last_in_gradient)
    ctx.save_for_backward(rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.ps_roi_pool_backward(grad, rois, images, height, width, *ctx.options)
    return grad_input, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, *options = inputs
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`; its transpose is the forward with the same bins."""
    (rois,) = ctx.saved_tensors
    spatial_scale, with_last = ctx.options
    grad_grad = None
    if ctx.needs_input_grad[0]:
        options = spatial_scale, with_last, with_last
        grad_grad = _op.ps_roi_pool(grad_grad_input, rois, *ctx.pooled_hw, *options)[0]
    return grad_grad, None, None, None, None, None, None


torch.library.register_autograd("roialign::ps_roi_pool", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd("roialign::ps_roi_pool_backward", _differentiate_backward, setup_context=_save_backward)
