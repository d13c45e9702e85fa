"""prroi_pool and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered import linear
from roialign.ops.registered.roi_align import check_grad, size_nhw
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

define(SCHEMAS)


@torch.library.impl("roialign::prroi_pool", "CompositeExplicitAutograd")
def _prroi_pool(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    _check(input, size_nhw(input), rois, *options)
    return reference.prroi_pool(input, rois, *options)


@torch.library.impl("roialign::prroi_pool_backward", "CompositeExplicitAutograd")
def _prroi_pool_backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, scale: float) -> Tensor:
    check_grad(grad, rois)
    _check(grad, (images, height, width), rois, grad.shape[2], grad.shape[3], scale)
    return reference.prroi_pool_backward(grad, rois, images, height, width, scale)


@torch.library.impl("roialign::prroi_pool_backward_boxes", "CompositeExplicitAutograd")
def _prroi_pool_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, scale: float) -> Tensor:
    check_grad(grad, rois)
    _check(input, size_nhw(input), rois, grad.shape[2], grad.shape[3], scale)
    return reference.prroi_pool_backward_boxes(grad, input, rois, scale)


def _size_nhw(input: Tensor) -> tuple[int, int, int]:
    return (input.shape[0], input.shape[2], input.shape[3]) if input.dim() == 4 else (0, 0, 0)


def _check(map_like: Tensor, size: tuple[int, int, int], rois: Tensor, ph: int, pw: int, scale: float) -> None:
    """Raise unless the operator was given what `roialign.prroi_pool` makes of its arguments."""
    check_operator(map_like, size, rois, (ph, pw), scale, 1)
    check_values(size[0], rois, ph, pw, scale, 1, False)


linear.register("prroi_pool")
