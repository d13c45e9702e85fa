"""ps_roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered import linear
from roialign.ops.registered.roi_align import check_grad, size_nhw
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

define(SCHEMAS)


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


linear.register("ps_roi_align", own_channels=True, forward_only=(False,))  # zeros where a box is empty
