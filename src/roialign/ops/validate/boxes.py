"""In which forms an RoI operator accepts boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign import errors
from roialign.ops.validate.maps import compute_dtype
from roialign.ops.validate.words import as_float, describe, is_dense


class BoxForm(NamedTuple):
    """How an operator's boxes are written: what they are called, and their coordinates."""

    name: str
    sides: str
    columns: int
    """Coordinates of a box, without the batch index."""

    @property
    def wanted(self) -> str:
        """What to pass, in words."""
        return (
            f"{self.name} as a tensor [K, {self.columns + 1}] (batch index, {self.sides}) or a list with one tensor "
            f"[L, {self.columns}] for each image"
        )


BOXES = BoxForm("boxes", "x1, y1, x2, y2", 4)
BOXES_3D = BoxForm("boxes", "x1, y1, z1, x2, y2, z2", 6)
ROTATED = BoxForm("boxes", "centre x, centre y, width, height, angle", 5)
SEGMENTS = BoxForm("segments", "start, end", 2)


def as_rois(boxes: Any, input: Tensor, form: BoxForm = BOXES) -> Tensor:
    """Boxes in either of torchvision's two forms as rois [K, 1 + columns] of the type that is computed in."""
    if isinstance(boxes, Tensor):
        _check_tensor(boxes, input, form)
        dtype = compute_dtype(input)
        return boxes if boxes.dtype == dtype else boxes.to(dtype)
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(image_boxes, Tensor) for image_boxes in boxes):
        convert = "torch.from_numpy" if type(boxes).__module__ == "numpy" else "torch.tensor"
        raise errors.BoxesShapeError(
            f"RA210: expected {form.wanted}; got {describe(boxes)}. Use {convert}({form.name})."
        )
    _check_list(boxes, input, form)
    if not boxes:
        return input.new_empty(0, 1 + form.columns, dtype=compute_dtype(input))
    coordinates = torch.cat([image_boxes.to(compute_dtype(input)) for image_boxes in boxes])
    counts = [image_boxes.shape[0] for image_boxes in boxes]
    images = torch.cat([coordinates.new_full((count, 1), image) for image, count in enumerate(counts)])
    return torch.cat([images, coordinates], dim=1)


def _check_tensor(boxes: Tensor, input: Tensor, form: BoxForm) -> None:
    name, columns = form.name, form.columns
    _check_dense(boxes, name)
    if boxes.dim() == 2 and boxes.shape[1] == columns:
        raise errors.BoxesShapeError(
            f"RA207: expected {form.wanted}; got {describe(boxes)}: the batch index column is missing. For {name} of "
            f"one image pass a list: [{name}]."
        )
    if boxes.dim() != 2 or boxes.shape[1] != 1 + columns:
        one_row = f"Use {name}[None] for a single row."
        raise errors.BoxesShapeError(
            f"RA210: expected {form.wanted}; got {describe(boxes)}. "
            + (one_row if boxes.dim() == 1 else f"Flatten it to rows: {name}.reshape(-1, {1 + columns}).")
        )
    _check_dtype(boxes, input, name)


def _check_list(boxes: Sequence[Tensor], input: Tensor, form: BoxForm) -> None:
    name, columns = form.name, form.columns
    for image, image_boxes in enumerate(boxes):
        _check_dense(image_boxes, name)
        if image_boxes.dim() != 2 or image_boxes.shape[1] != columns:
            raise errors.BoxesShapeError(
                f"RA210: expected {form.wanted}; got {describe(image_boxes)} for image {image}. In a list the "
                f"position is the batch index: leave that column out, and use torch.empty(0, {columns}) for no "
                f"{name}."
            )
        _check_dtype(image_boxes, input, name)
    if len(boxes) > input.shape[0]:
        raise errors.BatchIndexError(
            f"RA208: expected at most one list of {name} for each of the {input.shape[0]} images in the batch; got "
            f"{len(boxes)} lists. If all {name} belong to one image, pass [torch.cat({name})]."
        )


def _check_dense(boxes: Tensor, name: str) -> None:
    if not is_dense(boxes):
        dense = f"list({name}.unbind())" if boxes.is_nested else f"{name}.to_dense()"
        raise errors.DtypeError(f"RA505: expected dense {name}; got {describe(boxes)}. Use {dense}.")


def _check_dtype(boxes: Tensor, input: Tensor, name: str) -> None:
    if boxes.dtype == input.dtype and boxes.device == input.device and boxes.is_floating_point():
        return
    if boxes.device != input.device:
        raise errors.DtypeError(
            f"RA505: expected {name} on the device of the features, {input.device}; got them on {boxes.device}. "
            f'Use {name}.to("{input.device}").'
        )
    if not boxes.is_floating_point():
        wanted = as_float(boxes, name)
        raise errors.DtypeError(f"RA505: expected floating-point {name}; got {describe(boxes)}. Use {wanted}.")
    half_features = input.dtype in (torch.float16, torch.bfloat16)
    fits = boxes.dtype == input.dtype or (half_features and boxes.dtype == torch.float32)
    if not fits and not torch.is_autocast_enabled(input.device.type):
        wanted = str(compute_dtype(input)).removeprefix("torch.")
        raise errors.DtypeError(
            f"RA505: expected {wanted} {name} for {str(input.dtype).removeprefix('torch.')} features; got "
            f"{describe(boxes)}. Use {name}.to(torch.{wanted})."
        )
