"""roi_pool and its gradient as torch.library knows them: schema, reference, fake, autograd.

`legacy` is torchvision's rule for NaN and minus infinity; see `roialign.ops.reference.whole_cells.roi_pool`. The
gradient needs the cells of the largest values, `maxima`. The forward pass keeps them if asked to; where it was not, the
backward has them found again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.operators import usable_when_rounded
from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import check_grad, size_of
from roialign.ops.registered.derivatives import differentiate
from roialign.ops.registered.pooling import define, run
from roialign.ops.validate import check_operator, check_rows, check_scale, describe, usable_indices

SCHEMAS = {
    "roi_pool": (
        "(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, bool legacy,"
        " bool with_maxima) -> (Tensor output, Tensor coverage, Tensor maxima)"
    ),
    "roi_pool_backward": (
        "(Tensor grad, Tensor maxima, Tensor rois, SymInt images, SymInt height, SymInt width) -> Tensor"
    ),
}


def _forward(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_scale(scale)
    check_operator(input, size_of(input), rois, (ph, pw))
    check_rows(input.shape[0], rois, usable_when_rounded(rois, (ph, pw), scale))
    arguments = Arguments(rois, (), (ph, pw), (scale, legacy))
    output, coverage, maxima = reference.forward(reference.ROI_POOL, input, arguments)
    return output, coverage, (maxima if with_maxima else maxima[:0]).int()


def _backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    """Each bin's gradient goes to the cell of its largest value."""
    check_grad(grad, rois, ("height", "width"))
    check_operator(grad, (images, height, width), rois, grad.shape[2:])
    check_maxima(maxima, grad, images, usable=bool(usable_indices(rois, images).all()))
    total = rois.new_zeros(images, grad.shape[1], height * width)
    found = (maxima >= 0) & (maxima < height * width)
    upstream, cells = torch.where(found, grad, 0.0).to(rois.dtype), torch.where(found, maxima, 0).long()
    of_image = rois[:, 0].long()
    for image in of_image.unique().tolist():
        of_channels = (values[of_image == image].transpose(0, 1).flatten(1) for values in (cells, upstream))
        total[image].scatter_add_(1, *of_channels)
    grad_input: Tensor = total.unflatten(2, (height, width)).to(grad.dtype)
    return grad_input


def check_maxima(maxima: Tensor, grad: Tensor, images: int, *, usable: bool = True) -> None:
    """Raise unless `maxima` are of the values that `grad` is of, and the boxes' images `usable`."""
    if maxima.shape != grad.shape or maxima.dtype != torch.int32 or maxima.device != grad.device or not usable:
        raise FeatureMapError(
            f"RA306: expected the cell of each value that the gradient {describe(grad)} is of, int32 and of its shape, "
            f"and boxes of one of {images} images; got {describe(maxima)}. It is made by autograd; call "
            "roialign.roi_pool."
        )


def _fake_forward(input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, legacy: bool, with_maxima: bool) -> Any:
    output = input.new_empty(rois.shape[0], input.shape[1], ph, pw)
    maxima = input.new_empty(rois.shape[0] if with_maxima else 0, input.shape[1], ph, pw, dtype=torch.int32)
    return output, rois.new_empty(rois.shape[0]), maxima


def _fake_backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    features, rois, *ctx.options, with_maxima = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.input_shape = features.shape
    ctx.save_for_backward(None if with_maxima else features, output[2], rois)


def _differentiate_forward(ctx: Any, grad: Tensor, *_others: None) -> tuple[Any, ...]:
    features, maxima, rois = ctx.saved_tensors
    grad_input = None
    if ctx.needed[0]:
        if features is not None:
            maxima = run("roi_pool", features.detach(), rois, *ctx.options, True)[2]
        images, _, height, width = ctx.input_shape
        grad_input = run("roi_pool_backward", grad, maxima, rois, images, height, width)
    return grad_input, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, maxima, rois, _, _, _ = inputs
    ctx.save_for_backward(maxima, rois)


def _push_forward(arguments: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """Boxes are rounded to whole cells, so that a tangent of theirs moves nothing."""
    features, rois, *options, _ = arguments
    tangent = torch.zeros_like(features) if tangents[0] is None else tangents[0]
    maxima = run("roi_pool", features, rois, *options, True)[2]
    return _pick(tangent, maxima, rois), None, None


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`; its transpose picks values out at the maxima."""
    return _pick(grad_grad_input, *ctx.saved_tensors), None, None, None, None, None


def _pick(values: Tensor, maxima: Tensor, rois: Tensor) -> Tensor:
    """The values [K, C, h, w] of maps at the cells of the largest features, zero where there is none."""
    _, channels, height, width = values.shape
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    cells = planes[:, :, None, None] * (height * width) + maxima
    found = maxima >= 0  # of a box without an image there are none
    return torch.where(found, values.reshape(-1)[torch.where(found, cells, 0)], 0.0)


REFERENCE: dict[str, Any] = dict(zip(SCHEMAS, (_forward, _backward), strict=True))
define(SCHEMAS, REFERENCE, dict(zip(SCHEMAS, (_fake_forward, _fake_backward), strict=True)))
differentiate("roi_pool", _save_forward, _differentiate_forward, push_forward=_push_forward)
differentiate("roi_pool_backward", _save_backward, _differentiate_backward, linear_in=(0,))
