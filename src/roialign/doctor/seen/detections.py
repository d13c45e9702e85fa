"""Boxes that left a detection model, whose frame is that of the image that the model was given."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.doctor.seen.tensors import is_plain
from roialign.geometry import Frame

_MOST_IMAGES = 32
_MOST_ROWS = 1000
_LARGEST_FRACTION = 1.5  # boxes that reach no further are in fractions


class _Detected(NamedTuple):
    boxes_xyxy: Tensor
    """A copy, on the CPU."""
    frame: Frame


class Detections:
    """Remembers the boxes of the last images that detection models were given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[_Detected] = deque(maxlen=_MOST_IMAGES)

    def note(self, given: Any, output: Any, frame_of: Callable[[Tensor], Frame | None]) -> None:
        """A module made `output` of `given`; if those are dicts of boxes and images, remember the boxes."""
        dicts = [output] if isinstance(output, dict) else output
        if not isinstance(dicts, (list, tuple)) or not dicts or not all(isinstance(one, dict) for one in dicts):
            return
        boxes = [one.get("boxes") for one in dicts]
        images = _images(given)
        if len(images) != len(boxes):
            return
        for image, some in zip(images, boxes, strict=True):
            if not is_plain(some) or some.dim() != 2 or some.shape[1] != 4 or not 0 < len(some) <= _MOST_ROWS:
                continue
            frame = frame_of(image)
            if frame is not None:
                some = some.detach()
                copy = some.clone() if some.device.type == "cpu" else some.to("cpu", non_blocking=True)
                with self._lock:
                    self._last.append(_Detected(copy, frame))

    def frames_of(self, boxes_xyxy: Sequence[Tensor]) -> tuple[Frame | None, ...]:
        """Of the boxes [L, 4] of each image the frame that they were in when they left a detection model."""
        with self._lock:
            last = list(reversed(self._last))
        frames = tuple(_frame_of(some, last) for some in boxes_xyxy) if last else ()
        return frames if any(frames) else ()


def _images(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        given = list(given) if given.dim() == 4 else [given]
    if not isinstance(given, (list, tuple)) or len(given) > _MOST_IMAGES:
        return []
    return list(given) if all(is_plain(one) and one.dim() == 3 for one in given) else []


def _frame_of(boxes_xyxy: Tensor, detected: Sequence[_Detected]) -> Frame | None:
    of_pixels = len(boxes_xyxy) and float(boxes_xyxy.abs().amax()) > _LARGEST_FRACTION
    if not of_pixels or len(boxes_xyxy) > _MOST_ROWS:
        return None
    largest = boxes_xyxy[boxes_xyxy.abs().amax(1).argmax()]
    for one in detected:
        known = one.boxes_xyxy
        if known.dtype != boxes_xyxy.dtype or not bool((known == largest).all(1).any()):
            continue
        if bool((boxes_xyxy[:, None] == known).all(2).any(1).all()):
            return one.frame
    return None


def of_each_image(rois: Tensor, count: int) -> list[Tensor]:
    """The boxes [L, 4] of each image of rois [K, 5]."""
    rois = rois.detach()
    return [rois[rois[:, 0] == index, 1:] for index in torch.arange(count)]
