"""From masks that cover their boxes to masks of the image."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from roialign.errors import OptionError
from roialign.ops import onnx, validate
from roialign.ops.perform import prepare_for

Compat = Literal["detectron2", "torchvision"]

_op: Any = torch.ops.roialign


def paste_masks(
    masks: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    threshold: float | None = 0.5,
    *,
    compat: Compat = "detectron2",
) -> Tensor:
    """Paste masks that cover their boxes, as Mask R-CNN predicts them, into the image.

    Convention: boxes are (x1, y1, x2, y2) in pixels of the image, pixel (r, c) covers [c, c + 1) x [r, r + 1). Each
    mask is read by bilinear interpolation at the centres of the image's pixels; beyond its border it is 0.
    `compat="detectron2"` does that exactly. `compat="torchvision"` rounds boxes to whole pixels, with the last
    one included, as torchvision's detectors do, which moves a mask by up to a pixel.

    Rows and columns of a mask separate, and only the pixels of its box are computed: memory is the result and a few MB.
    Deterministic. Without a threshold differentiable to the masks, not to the boxes.

    Args:
        masks: [K, m, n] or [K, 1, m, n], floating point, of any size; the mask of each box's class.
        boxes_xyxy: [K, 4], floating point. A box without area pastes nothing.
        image_size: (height, width) of the image in pixels.
        threshold: pixels of at least this value are in the mask; None for the values themselves.
        compat: whose rule places the masks: "detectron2" or "torchvision".

    Returns:
        [K, height, width]: bool, or without a threshold values in the type of `masks`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.

    Compatible with: detectron2.layers.paste_masks_in_image (as on the CPU), and
    torchvision.models.detection.roi_heads.paste_masks_in_image.

    Example:
        >>> import torch
        >>> paste_masks(torch.ones(1, 28, 28), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (3, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0],
                 [0, 0, 0, 0]]], dtype=torch.int32)
    """
    if compat not in get_args(Compat):
        raise OptionError(
            f'RA506: expected compat, "detectron2" or "torchvision"; got {validate.describe(compat)}. Use '
            '"detectron2", the default; "torchvision" rounds boxes to whole pixels.'
        )
    if (torch.compiler.is_compiling() or torch._C._is_tracing()) and onnx.is_exporting():
        onnx.refuse("paste_masks")
    whole, boxes, (height, width) = validate.as_pasting(masks, boxes_xyxy, image_size, threshold)
    prepare_for((whole, boxes))
    limit = None if threshold is None else float(threshold)
    return cast(Tensor, _op.paste_masks(whole, boxes, height, width, limit, compat == "torchvision"))
