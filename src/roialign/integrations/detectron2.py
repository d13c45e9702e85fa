"""detectron2's `Boxes` as roialign's, and back; detectron2 itself is imported only to make its own."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from roialign.errors import BoxesShapeError, FrameError
from roialign.geometry import Boxes, Frame


def boxes_from(boxes: Any, frame: Frame) -> Boxes:
    """detectron2's `Boxes`, or the boxes of its `Instances`, as `Boxes`.

    Args:
        boxes: what has a `tensor` [N, 4] of x1, y1, x2, y2, or `Instances` with `pred_boxes`, `gt_boxes` or
            `proposal_boxes`, whose `image_size` must then be the frame's size.
        frame: that they are in. The boxes of a detectron2 predictor's results are in the original image; those
            inside of a model in the resized one.

    Raises:
        BoxesShapeError: RA210, for anything else, rotated boxes too.
        FrameError: RA107, if the instances' image is not of the frame's size.
    """
    if hasattr(boxes, "image_size") and hasattr(boxes, "has"):
        if tuple(boxes.image_size) != frame.size_hw:
            raise FrameError(
                f"RA107: expected instances of an image of the frame's size, {frame.size_hw}; got image_size="
                f"{tuple(boxes.image_size)} for [{frame}]. Pass the frame that they are in, then use .to(frame)."
            )
        field = next((name for name in ("pred_boxes", "gt_boxes", "proposal_boxes") if boxes.has(name)), None)
        boxes = boxes.get(field) if field else None
    values = getattr(boxes, "tensor", None)
    if not isinstance(values, Tensor):
        raise BoxesShapeError(
            f"RA210: expected detectron2's Boxes, or Instances with boxes; got a {type(boxes).__name__}. For a tensor "
            "use Boxes(values, frame)."
        )
    return Boxes(values, frame)


def to_detectron2(boxes: Boxes) -> Any:
    """`Boxes` as detectron2's, in float32, with the numbers of their current frame.

    Raises:
        ImportError: if detectron2 is not installed.
    """
    structures = importlib.import_module("detectron2.structures")
    return structures.Boxes(boxes.boxes_xyxy)
