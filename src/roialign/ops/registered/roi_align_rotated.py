"""roi_align_rotated and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered import linear
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import ROTATED, check_operator, check_rotated_values

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned, bool clockwise, bool radians"
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

define(SCHEMAS)


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
    check_operator(input, size_nhw(input), rois, options[:2], options[2], options[3], ROTATED)
    check_rotated_values(input.shape[0], rois, *options)


linear.register("roi_align_rotated")
