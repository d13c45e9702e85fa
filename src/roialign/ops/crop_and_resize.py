"""TensorFlow's crop_and_resize: one bilinear sample for each pixel of a crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign import errors
from roialign.ops import calls, validate
from roialign.ops.operators import ROI_ALIGN
from roialign.ops.perform import pool


def crop_and_resize(
    image: Tensor,
    boxes: Tensor,
    box_indices: Tensor,
    crop_size: int | Sequence[int],
    extrapolation_value: float = 0.0,
) -> Tensor:
    """Cut crops of fixed size out of images, by one bilinear sample for each pixel, as TensorFlow does.

    The corners of a box fall on the centres of the crop's corner pixels; a crop of one row or column is sampled in the
    box's middle. Nothing is averaged: what lies between the samples of a large box is not read. An inverted box gives a
    flipped crop.

    Convention: boxes are (y1, x1, y2, x2), y first, in units of the image: 0 is the centre of its first row or column,
    1 that of its last. Samples further out are `extrapolation_value`.

    Computed in float64 for float64 images, in float32 for all others, returned in the type of `image` (TensorFlow
    returns float32). Deterministic on the CPU; differentiable to the image and to the boxes.

    Args:
        image: [N, C, H, W], floating point, of any strides (TensorFlow's is [N, H, W, C]).
        boxes: [K, 4] in the type of `image`, or float32 where that is float16 or bfloat16.
        box_indices: [K], integers: the batch index of each box.
        crop_size: (height, width) of the crops, or one number for both.
        extrapolation_value: what samples off the image give.

    Returns:
        [K, C, height, width], in the type of `image`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.

    Compatible with: tf.image.crop_and_resize(method="bilinear").

    Example:
        >>> import torch
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> crop_and_resize(image, torch.tensor([[0.0, 0.0, 1.0, 0.5]]), torch.tensor([0]), (2, 2))
        tensor([[[[ 0.0000,  1.5000],
                  [12.0000, 13.5000]]]])
    """
    validate.check_input(image)
    size_hw, _, _ = validate.check_options(crop_size, 1.0, 1)
    rois, on_image = _samples(_as_rois(boxes, box_indices, image), image, size_hw)
    call = calls.RoICall(image, rois, size_hw, 1.0, 1, True, "crop_and_resize")
    crops = pool(ROI_ALIGN, call, call.options[2:], noticed=False)
    return torch.where(on_image[:, None], crops, extrapolation_value)


def _as_rois(boxes: Any, box_indices: Any, image: Tensor) -> Tensor:
    """[K, 5]: batch index, x1, y1, x2, y2."""
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        raise errors.BoxesShapeError(
            f"RA210: expected boxes as a tensor [K, 4] (y1, x1, y2, x2); got {validate.describe(boxes)}. The batch "
            "index is in box_indices."
        )
    integers = isinstance(box_indices, Tensor) and not box_indices.is_floating_point() and not box_indices.is_complex()
    if not integers or box_indices.shape != boxes.shape[:1]:
        raise errors.BatchIndexError(
            f"RA206: expected box_indices, integers [{len(boxes)}], one for each box; got "
            f"{validate.describe(box_indices)}. Use box_indices.long()."
        )
    y1, x1, y2, x2 = boxes.unbind(1)
    return validate.as_rois(torch.stack([box_indices.to(boxes.dtype), x1, y1, x2, y2], 1), image)


def _samples(rois: Tensor, image: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes of cells whose bins are centred at the samples, and which samples [K, h, w] are on the image."""
    index, x1, y1, x2, y2 = rois.unbind(1)
    sides, on_axis = [], []
    for low, high, count, extent in ((y1, y2, size_hw[0], image.shape[2]), (x1, x2, size_hw[1], image.shape[3])):
        # TensorFlow's order of operations: whether a sample is on the image is decided on the rounded result
        step = (high - low) * (extent - 1) / (count - 1) if count > 1 else torch.zeros_like(low)
        first = low * (extent - 1) if count > 1 else 0.5 * (low + high) * (extent - 1)
        position = first[:, None] + torch.arange(count, dtype=rois.dtype, device=rois.device) * step[:, None]
        on_axis.append((position >= 0) & (position <= extent - 1))
        start = first - step / 2 + 0.5
        sides += [start, start + step * count]
    top, bottom, left, right = sides
    return torch.stack([index, left, top, right, bottom], 1), on_axis[0][:, :, None] & on_axis[1][:, None, :]
