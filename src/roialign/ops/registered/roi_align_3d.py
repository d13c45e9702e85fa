"""roi_align_3d and its gradients as torch.library knows them: schema, reference, fake, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered import linear
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

define(SCHEMAS)


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


linear.register("roi_align_3d", axes=3)
