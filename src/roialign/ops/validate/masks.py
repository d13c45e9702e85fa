"""Which masks are accepted, to pool under and to paste."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from roialign import errors
from roialign.ops.validate.maps import DTYPES
from roialign.ops.validate.options import is_side
from roialign.ops.validate.words import as_float, describe, row_text


def as_masks(masks: Any, rois: Tensor) -> Tensor:
    """Masks [K, h, w], one for each of the rois, bool or in the type that is computed in."""
    if isinstance(masks, (list, tuple)) and masks and all(isinstance(one, Tensor) for one in masks):
        if any(one.dim() != masks[0].dim() or one.shape[1:] != masks[0].shape[1:] for one in masks):
            raise _wrong(rois, "lists of masks of several sizes. Pad them to one size, or pool each image separately.")
        masks = torch.cat(list(masks))
    if not isinstance(masks, Tensor):
        raise _wrong(rois, f"{describe(masks)}. Pass a tensor, or a list with one for each image.")
    whole = masks.squeeze(1) if masks.dim() == 4 and masks.shape[1] == 1 else masks
    if whole.dim() != 3 or whole.shape[0] != rois.shape[0] or 0 in whole.shape[1:]:
        raise _wrong(rois, f"{describe(masks)}. Each box needs one mask: masks[labels == ...] selects them.")
    if whole.device != rois.device or not (whole.dtype == torch.bool or whole.is_floating_point()):
        wanted = as_float(masks, "masks") if masks.is_quantized else "masks.bool()"
        raise _wrong(rois, f"{describe(masks)} on {masks.device}. Use {wanted} on {rois.device}.")
    return whole if whole.dtype == torch.bool else whole.to(rois.dtype)


def _wrong(rois: Tensor, got: str) -> errors.MaskError:
    wanted = f"masks, bool or floating point [K, h, w], one for each of {rois.shape[0]} boxes"
    return errors.MaskError(f"RA309: expected {wanted}; got {got}")


def check_operator_masks(masks: Tensor, rois: Tensor) -> None:
    """Raise unless a registered operator was given what `as_masks` makes of masks."""
    if masks.dim() != 3 or masks.shape[0] != rois.shape[0] or 0 in masks.shape[1:]:
        raise errors.MaskError(
            f"RA309: expected masks [K, h, w], one for each of {len(rois)} boxes; got {describe(masks)}. "
            "Call roialign.masked_roi_align, which checks its arguments."
        )
    if masks.dtype not in (torch.bool, rois.dtype) or masks.device != rois.device:
        raise errors.MaskError(
            f"RA309: expected masks, bool or {rois.dtype} on {rois.device}; got {describe(masks)} on {masks.device}. "
            "Call roialign.masked_roi_align, which converts masks."
        )


def as_pasting(masks: Any, boxes_xyxy: Any, image_size: Any, threshold: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Masks [K, m, n], boxes and the image's size, once all but the values of boxes is found usable."""
    if not isinstance(boxes_xyxy, Tensor) or boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4:
        raise errors.BoxesShapeError(
            f"RA210: expected boxes_xyxy, a tensor [K, 4] of x1, y1, x2, y2; got {describe(boxes_xyxy)}. Paste the "
            "masks of each image in a separate call."
        )
    if not boxes_xyxy.is_floating_point():
        wanted = as_float(boxes_xyxy, "boxes_xyxy")
        raise errors.DtypeError(f"RA505: expected floating-point boxes; got {describe(boxes_xyxy)}. Use {wanted}.")
    if not (threshold is None or (isinstance(threshold, Real) and not math.isnan(threshold))):
        raise errors.OptionError(
            f"RA506: expected threshold, a number, or None for values; got {describe(threshold)}. Use 0.5."
        )
    size = image_size if isinstance(image_size, Sequence) else ()
    if len(size) != 2 or not all(map(is_side, size)):
        raise errors.FrameError(
            f"RA307: expected image_size, (height, width) in pixels; got {image_size!r}. For a tensor: "
            "image.shape[-2:]."
        )
    if isinstance(masks, Tensor) and masks.dtype == torch.bool:
        masks = masks.float()
    elif isinstance(masks, Tensor) and masks.dtype not in DTYPES:
        wanted = as_float(masks, "masks")
        raise errors.MaskError(f"RA309: expected floating-point masks; got {describe(masks)}. Use {wanted}.")
    whole = as_masks(masks, boxes_xyxy.to(masks.dtype) if isinstance(masks, Tensor) else boxes_xyxy)
    return whole, boxes_xyxy, cast(tuple[int, int], tuple(size))


def check_pasting(masks: Tensor, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> None:
    """Raise unless a registered operator was given what `as_pasting` makes of its arguments, and finite boxes."""
    if boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4 or not boxes_xyxy.is_floating_point():
        raise errors.BoxesShapeError(f"RA210: expected boxes_xyxy [K, 4]; got {describe(boxes_xyxy)}.")
    if masks.dim() != 3 or masks.shape[0] != boxes_xyxy.shape[0] or 0 in masks.shape[1:] or masks.dtype not in DTYPES:
        raise errors.MaskError(
            f"RA309: expected masks, floating point [K, m, n], one for each of {len(boxes_xyxy)} boxes; got "
            f"{describe(masks)}. Call roialign.paste_masks, which checks its arguments."
        )
    if masks.device != boxes_xyxy.device or min(size_hw) < 1:
        raise errors.MaskError(
            f"RA309: expected boxes on {masks.device} and a size of at least 1 x 1; got them on {boxes_xyxy.device}, "
            f"and {size_hw}. Call roialign.paste_masks, which checks its arguments."
        )
    _raise_for_infinite(boxes_xyxy)


def _raise_for_infinite(boxes_xyxy: Tensor) -> None:
    unusable = ~boxes_xyxy.detach().isfinite().all(1)
    if bool(unusable.any()):
        row = int(unusable.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates; got {int(unusable.sum())} unusable rows of {len(boxes_xyxy)}, the "
            f"first boxes_xyxy[{row}] = {row_text(boxes_xyxy, row)}. Drop them: boxes[boxes.isfinite().all(dim=1)]."
        )
