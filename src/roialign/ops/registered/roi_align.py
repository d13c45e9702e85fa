"""roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered import linear
from roialign.ops.validate import check_operator, check_values, describe

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned"
SCHEMAS = {
    "roi_align": (
        f"(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "roi_align_backward": (
        f"(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "roi_align_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}

define(SCHEMAS)


@torch.library.impl("roialign::roi_align", "CompositeExplicitAutograd")
def _roi_align(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    check_operator(input, size_nhw(input), rois, options[:2], *options[2:4])
    check_values(input.shape[0], rois, *options)
    return reference.roi_align(input, rois, *options)


@torch.library.impl("roialign::roi_align_backward", "CompositeExplicitAutograd")
def _roi_align_backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], *options[:2])
    check_values(images, rois, *grad.shape[2:], *options)
    return reference.roi_align_backward(grad, rois, images, height, width, *options)


@torch.library.impl("roialign::roi_align_backward_boxes", "CompositeExplicitAutograd")
def _roi_align_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    check_grad(grad, rois)
    check_operator(input, size_nhw(input), rois, grad.shape[2:], *options[:2])
    check_values(input.shape[0], rois, *grad.shape[2:], *options)
    return reference.roi_align_backward_boxes(grad, input, rois, *options)


def size_nhw(input: Tensor) -> tuple[int, int, int]:
    """Images, height and width of a feature map, zeros where it is none."""
    return (input.shape[0], input.shape[2], input.shape[3]) if input.dim() == 4 else (0, 0, 0)


def check_grad(grad: Tensor, rois: Tensor) -> None:
    """Raise unless `grad` has the shape of a gradient of the RoIs' features."""
    if grad.dim() != 4 or grad.shape[0] != len(rois):
        raise FeatureMapError(
            f"RA306: expected a gradient [K, C, h, w] with one entry for each of {len(rois)} boxes; got "
            f"{describe(grad)}. It is made by autograd; call roialign.roi_align."
        )


linear.register("roi_align")
