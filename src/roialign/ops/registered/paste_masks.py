"""paste_masks and its gradient as torch.library knows them. One PyTorch implementation is used on all devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops.reference import paste_masks as reference
from roialign.ops.registered.derivatives import differentiate
from roialign.ops.registered.pooling import define, run
from roialign.ops.validate import check_pasting

SCHEMAS = {
    "paste_masks": (
        "(Tensor masks, Tensor boxes_xyxy, SymInt height, SymInt width, float? threshold, bool torchvision) -> Tensor"
    ),
    "paste_masks_backward": (
        "(Tensor grad, Tensor boxes_xyxy, SymInt mask_height, SymInt mask_width, bool torchvision) -> Tensor"
    ),
}


def _paste(
    masks: Tensor, boxes_xyxy: Tensor, height: int, width: int, threshold: float | None, torchvision: bool
) -> Tensor:
    check_pasting(masks, boxes_xyxy, (height, width))
    return reference.paste_masks(masks, boxes_xyxy, height, width, threshold, torchvision)


def _paste_backward(grad: Tensor, boxes_xyxy: Tensor, mask_height: int, mask_width: int, torchvision: bool) -> Tensor:
    check_pasting(grad, boxes_xyxy, (mask_height, mask_width))
    return reference.paste_masks_backward(grad, boxes_xyxy, mask_height, mask_width, torchvision)


def _fake(
    masks: Tensor, boxes_xyxy: Tensor, height: int, width: int, threshold: float | None, torchvision: bool
) -> Tensor:
    dtype = masks.dtype if threshold is None else torch.bool
    return masks.new_empty(masks.shape[0], height, width, dtype=dtype)


def _fake_backward(grad: Tensor, boxes_xyxy: Tensor, mask_height: int, mask_width: int, torchvision: bool) -> Tensor:
    return grad.new_empty(grad.shape[0], mask_height, mask_width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    masks, boxes_xyxy, _, _, threshold, ctx.torchvision = inputs
    if threshold is not None:
        ctx.mark_non_differentiable(output)
    ctx.size_hw = masks.shape[1:]
    ctx.save_for_backward(boxes_xyxy)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (boxes_xyxy,) = ctx.saved_tensors
    grad_masks = None
    if ctx.needed[0]:
        grad_masks = run("paste_masks_backward", grad, boxes_xyxy, *ctx.size_hw, ctx.torchvision)
    return grad_masks, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, boxes_xyxy, _, _, ctx.torchvision = inputs
    ctx.size_hw = grad.shape[1:]
    ctx.save_for_backward(boxes_xyxy)


def _differentiate_backward(ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and pasting is its transpose."""
    (boxes_xyxy,) = ctx.saved_tensors
    return run("paste_masks", grad_grad, boxes_xyxy, *ctx.size_hw, None, ctx.torchvision), None, None, None, None


REFERENCE: dict[str, Any] = dict(zip(SCHEMAS, (_paste, _paste_backward), strict=True))
define(SCHEMAS, REFERENCE, dict(zip(SCHEMAS, (_fake, _fake_backward), strict=True)))
differentiate("paste_masks", _save, _differentiate, linear_in=(0,))
differentiate("paste_masks_backward", _save_backward, _differentiate_backward, linear_in=(0,))
