"""roi_align_3d and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.registered.roi_align import refuse_second_derivative
from roialign.ops.validate import check_operator_3d, check_values_3d, describe

_SIZE = "SymInt pooled_depth, SymInt pooled_height, SymInt pooled_width"
_OPTIONS = "float scale_z, float scale_y, float scale_x, int sampling_ratio, bool aligned"
SCHEMAS = {
    "roi_align_3d": f"(Tensor input, Tensor rois, {_SIZE}, {_OPTIONS}) -> (Tensor output, Tensor coverage)",
    "roi_align_3d_backward": (
        f"(Tensor grad, Tensor rois, SymInt images, SymInt depth, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "roi_align_3d_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"roialign::{_name}", _schema)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::roi_align_3d", "CompositeExplicitAutograd")
def _roi_align_3d(input: Tensor, rois: Tensor, pd: int, ph: int, pw: int, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, input.shape[:1] + input.shape[2:], rois, (pd, ph, pw), *options)
    return reference.roi_align_3d(input, rois, pd, ph, pw, *options)


@torch.library.impl("roialign::roi_align_3d_backward", "CompositeExplicitAutograd")
def _roi_align_3d_backward(
    grad: Tensor, rois: Tensor, images: int, depth: int, height: int, width: int, *options: Any
) -> Tensor:
    _check_grad(grad, rois)
    _check(grad, (images, depth, height, width), rois, grad.shape[2:], *options)
    return reference.roi_align_3d_backward(grad, rois, images, depth, height, width, *options)


@torch.library.impl("roialign::roi_align_3d_backward_boxes", "CompositeExplicitAutograd")
def _roi_align_3d_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    _check_grad(grad, rois)
    _check(input, input.shape[:1] + input.shape[2:], rois, grad.shape[2:], *options)
    return reference.roi_align_3d_backward_boxes(grad, input, rois, *options)


def _check(
    volume_like: Tensor,
    size_ndhw: Sequence[int],
    rois: Tensor,
    pooled_dhw: Sequence[int],
    scale_z: float,
    scale_y: float,
    scale_x: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Raise unless the operator was given what `roialign.roi_align_3d` makes of its arguments."""
    scales_zyx = scale_z, scale_y, scale_x
    check_operator_3d(volume_like, size_ndhw, rois, pooled_dhw, scales_zyx, sampling_ratio)
    check_values_3d(size_ndhw[0], rois, pooled_dhw, scales_zyx, sampling_ratio, aligned)


def _check_grad(grad: Tensor, rois: Tensor) -> None:
    if grad.dim() != 5 or grad.shape[0] != len(rois):
        raise FeatureMapError(
            f"RA306: expected a gradient [K, C, d, h, w] with one entry for each of {len(rois)} boxes; got "
            f"{describe(grad)}. It is made by autograd; call roialign.roi_align_3d."
        )


@torch.library.register_fake("roialign::roi_align_3d")
def _(input: Tensor, rois: Tensor, pd: int, ph: int, pw: int, *options: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty(rois.shape[0], input.shape[1], pd, ph, pw), rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::roi_align_3d_backward")
def _(grad: Tensor, rois: Tensor, images: int, depth: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1], depth, height, width)


@torch.library.register_fake("roialign::roi_align_3d_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, options
    ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    images, _, *size_dhw = ctx.input_shape
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.roi_align_3d_backward(grad, rois, images, *size_dhw, *ctx.options)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_3d_backward_boxes(grad, features, rois, *ctx.options)
    return grad_input, grad_rois, *(None,) * 8


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, _, *options = inputs
    ctx.pooled_dhw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois = ctx.saved_tensors
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.roi_align_3d(grad_grad_input, rois, *ctx.pooled_dhw, *ctx.options)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_3d_backward_boxes(grad, grad_grad_input, rois, *ctx.options)
    return grad_grad, grad_rois, *(None,) * 9


torch.library.register_autograd("roialign::roi_align_3d", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd(
    "roialign::roi_align_3d_backward", _differentiate_backward, setup_context=_save_backward
)
torch.library.register_autograd("roialign::roi_align_3d_backward_boxes", refuse_second_derivative)
