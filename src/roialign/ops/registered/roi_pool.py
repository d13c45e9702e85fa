"""roi_pool and its gradient as torch.library knows them: schema, reference, fake, autograd.

`legacy` is torchvision's rule for NaN and minus infinity; see `roialign.ops.reference.roi_pool`. The gradient needs the
cells of the largest values, `maxima`. The forward pass keeps them if asked to; where it was not, the backward
has them found again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import check_operator, check_values_of_cells, describe, usable_indices

SCHEMAS = {
    "roi_pool": (
        "(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, bool legacy,"
        " bool with_maxima) -> (Tensor output, Tensor coverage, Tensor maxima)"
    ),
    "roi_pool_backward": (
        "(Tensor grad, Tensor maxima, Tensor rois, SymInt images, SymInt height, SymInt width) -> Tensor"
    ),
}

define(SCHEMAS)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::roi_pool", "CompositeExplicitAutograd")
def _roi_pool(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_operator(input, size_nhw(input), rois, options[:2], options[2], 1)
    check_values_of_cells(input.shape[0], rois, options[2])
    return reference.roi_pool(input, rois, *options)


@torch.library.impl("roialign::roi_pool_backward", "CompositeExplicitAutograd")
def _roi_pool_backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], 1.0, 1)
    if maxima.shape != grad.shape or maxima.dtype != torch.int32 or not bool(usable_indices(rois, images).all()):
        raise FeatureMapError(
            f"RA306: expected the cell of each value that the gradient {describe(grad)} is of, int32 and of its shape, "
            f"and boxes of one of {images} images; got {describe(maxima)}. It is made by autograd; call "
            "roialign.roi_pool."
        )
    return reference.roi_pool_backward(grad, maxima, rois, images, height, width)


@torch.library.register_fake("roialign::roi_pool")
def _(input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool) -> Any:
    output = input.new_empty(rois.shape[0], input.shape[1], ph, pw)
    maxima = input.new_empty(rois.shape[0] if with_maxima else 0, input.shape[1], ph, pw, dtype=torch.int32)
    return output, rois.new_empty(rois.shape[0]), maxima


@torch.library.register_fake("roialign::roi_pool_backward")
def _(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    features, rois, *ctx.options, with_maxima = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.input_shape = features.shape
    ctx.save_for_backward(None if with_maxima else features, output[2], rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, *_others: Tensor | None) -> tuple[Any, ...]:
    features, maxima, rois = ctx.saved_tensors
    grad_input = None
    if grad is not None and ctx.needs_input_grad[0]:
        if features is not None:
            maxima = _op.roi_pool(features.detach(), rois, *ctx.options, True)[2]
        images, _, height, width = ctx.input_shape
        grad_input = _op.roi_pool_backward(grad, maxima, rois, images, height, width)
    return grad_input, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, maxima, rois, _, _, _ = inputs
    ctx.save_for_backward(maxima, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`; its transpose picks values out at the maxima."""
    maxima, rois = ctx.saved_tensors
    _, channels, height, width = grad_grad_input.shape
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    cells = planes[:, :, None, None] * (height * width) + maxima.clamp(min=0)
    picked = torch.where(maxima >= 0, grad_grad_input.take(cells), 0.0)
    return picked, None, None, None, None, None


torch.library.register_autograd("roialign::roi_pool", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd("roialign::roi_pool_backward", _differentiate_backward, setup_context=_save_backward)
