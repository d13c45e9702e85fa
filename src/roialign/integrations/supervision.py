"""supervision's `Detections` as `Boxes`, and back; supervision itself is imported only to make its own."""

from __future__ import annotations

import importlib
from typing import Any

from roialign.errors import BoxesShapeError
from roialign.geometry import Boxes, Frame


def boxes_from(detections: Any, frame: Frame) -> Boxes:
    """The boxes of supervision's `Detections`.

    Args:
        detections: what has an array `xyxy` [N, 4].
        frame: that they are in: for most models the original image.

    Raises:
        BoxesShapeError: RA210, for anything without boxes.
    """
    values = getattr(detections, "xyxy", None)
    if values is None:
        raise BoxesShapeError(
            f"RA210: expected supervision's Detections, with boxes xyxy; got a {type(detections).__name__}. For a "
            "tensor or an array use Boxes(values, frame)."
        )
    return Boxes(values, frame)


def to_detections(boxes: Boxes, **fields: Any) -> Any:
    """`Boxes` as supervision's `Detections`, with the numbers of their current frame.

    Args:
        boxes: to convert; they are taken to the CPU.
        **fields: other fields of `Detections`, such as confidence and class_id.

    Raises:
        ImportError: if supervision is not installed.
    """
    supervision = importlib.import_module("supervision")
    return supervision.Detections(xyxy=boxes.boxes_xyxy.detach().cpu().numpy(), **fields)
