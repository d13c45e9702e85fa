"""roi_align_max and its gradients as torch.library knows them: schema, reference, fake, autograd.

It is `roi_align(mode="max")`. With `corners` the largest product of a cell and its weight counts, as in ONNX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered.linear import refuse_second_derivative
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import check_operator, check_values

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned, bool corners"
SCHEMAS = {
    "roi_align_max": (
        f"(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "roi_align_max_backward": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
    "roi_align_max_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}

define(SCHEMAS)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::roi_align_max", "CompositeExplicitAutograd")
def _roi_align_max(input: Tensor, rois: Tensor, ph: int, pw: int, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, rois, ph, pw, *options)
    return reference.roi_align_max(input, rois, ph, pw, *options)


@torch.library.impl("roialign::roi_align_max_backward", "CompositeExplicitAutograd")
def _roi_align_max_backward(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    check_grad(grad, rois)
    _check(input, rois, grad.shape[2], grad.shape[3], *options)
    return reference.roi_align_max_backward(grad, input, rois, *options)


@torch.library.impl("roialign::roi_align_max_backward_boxes", "CompositeExplicitAutograd")
def _roi_align_max_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    check_grad(grad, rois)
    _check(input, rois, grad.shape[2], grad.shape[3], *options)
    return reference.roi_align_max_backward_boxes(grad, input, rois, *options)


def _check(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, sampling_ratio: int, aligned: bool, corners: bool
) -> None:
    """Raise unless the operator was given what `roialign.roi_align` makes of its arguments."""
    check_operator(input, size_nhw(input), rois, (ph, pw), scale, sampling_ratio)
    check_values(input.shape[0], rois, ph, pw, scale, sampling_ratio, aligned)


@torch.library.register_fake("roialign::roi_align_max")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: Any) -> tuple[Tensor, Tensor]:
    output = input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return output, rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::roi_align_max_backward")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return input.new_empty(input.shape)


@torch.library.register_fake("roialign::roi_align_max_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.options = options
    ctx.save_for_backward(features, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.roi_align_max_backward(grad, features, rois, *ctx.options)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_max_backward_boxes(grad, features, rois, *ctx.options)
    return grad_input, grad_rois, *(None,) * 6


def _refuse_second_derivative(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Raise, where the gradient is differentiated again."""
    raise RuntimeError('RoIAlign with mode="max" has no second derivatives')


torch.library.register_autograd("roialign::roi_align_max", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd("roialign::roi_align_max_backward", _refuse_second_derivative)
torch.library.register_autograd("roialign::roi_align_max_backward_boxes", refuse_second_derivative)
