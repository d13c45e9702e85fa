"""Frames of the image processors of transformers (5 or newer), of both of their backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from roialign.errors import FrameError
from roialign.geometry import Frame

# Processors with a `_preprocess` or a `resize` of their own whose geometry is nevertheless resize, crop, pad:
# each is checked against its pixels by a test.
_RESIZE_CROP_PAD = frozenset(
    f"{name}ImageProcessor"
    for name in (
        *("Beit", "ConditionalDetr", "DeformableDetr", "Detr", "DINOv3ViT", "EfficientNet", "GroundingDino", "Levit"),
        *("MobileNetV2", "MobileViT", "RTDetr", "Sam", "Sam2", "Segformer", "Yolos"),
    )
)
_CONVNEXT, _OWLV2 = "ConvNextImageProcessor", "Owlv2ImageProcessor"
_OWN = ("_preprocess", "resize", "center_crop", "pad")  # what a plain processor leaves to its backend
_FULL_SIZE = 384  # from here on ConvNext stretches to a square and crops nothing


def frame_after(processor: Any, frame: Frame | tuple[int, int]) -> Frame:
    """The frame of the pixels that an image processor makes of one image, processed by itself.

    Args:
        processor: an image processor, or a processor that has one, with the settings it was made with: options
            of a call such as `processor(image, size=...)` are not seen.
        frame: of the image, or its size (height, width) for a new one.

    Raises:
        FrameError: RA107, for a processor that does anything but resize, crop and pad.

    Example:
        >>> from transformers import CLIPImageProcessor  # doctest: +SKIP
        >>> frame_after(CLIPImageProcessor(), (480, 640))  # doctest: +SKIP
        Frame(image 480x640 > resize 224x298 > crop 224x224)
    """
    return frames_after(processor, [frame])[0]


def frames_after(processor: Any, frames: Sequence[Frame | tuple[int, int]]) -> list[Frame]:
    """The frames of images that an image processor takes as one batch: some pad each to the largest of them.

    The sizes come from the processor's own methods, run on empty images. Padding goes to the right and the
    bottom; `frame.parent` is then the image without it.

    Args:
        processor: as for `frame_after`.
        frames: of the images of one batch, or their sizes (height, width).

    Raises:
        FrameError: RA107, for a processor that does anything but resize, crop and pad.

    Example:
        >>> from transformers import DetrImageProcessor  # doctest: +SKIP
        >>> frames_after(DetrImageProcessor(), [(480, 640), (640, 480)])[0]  # doctest: +SKIP
        Frame(image 480x640 > resize 800x1066 > pad 1066x1066)
    """
    processor = getattr(processor, "image_processor", processor)
    step = _known(processor)
    images = [frame if isinstance(frame, Frame) else Frame.image(frame) for frame in frames]
    made = [step(processor, frame) for frame in images]
    if step is not _resize_crop or not getattr(processor, "do_pad", None):
        return made
    pad_size = getattr(processor, "pad_size", None)
    if pad_size is not None:
        height, width = pad_size.height, pad_size.width
    else:
        height, width = (max(frame.size_hw[axis] for frame in made) for axis in (0, 1))
    return [
        frame
        if frame.size_hw == (height, width)
        else frame.pad(0, 0, width - frame.size_hw[1], height - frame.size_hw[0])
        for frame in made
    ]


def _known(processor: Any) -> Callable[[Any, Frame], Frame]:
    """What the processor does to one image, before padding; raises if that is not known."""
    name = type(processor).__name__.removesuffix("Pil")
    try:
        backends = importlib.import_module("transformers.image_processing_backends")
    except ImportError:
        raise FrameError(
            f"RA107: expected an image processor of transformers 5 or newer; got a {type(processor).__name__} "
            'without it. Run pip install "transformers>=5", or write the steps yourself: '
            "Frame.image(size_hw).resize(...)."
        ) from None
    backend = next(
        (base for base in (backends.TorchvisionBackend, backends.PilBackend) if isinstance(processor, base)), None
    )
    if backend is not None and name == _CONVNEXT:
        return _convnext
    if backend is not None and name == _OWLV2:
        return _owlv2
    own = [method for method in _OWN if getattr(type(processor), method, None) is not getattr(backend, method, None)]
    if backend is None or (own and name not in _RESIZE_CROP_PAD):
        reason = f"with its own {', '.join(own)}" if backend is not None else "which is none"
        raise FrameError(
            "RA107: expected an image processor that is known to resize, crop and pad; got "
            f"{type(processor).__name__}, {reason}. Look at what it does and write the steps yourself: "
            "Frame.image(size_hw).resize(...).pad(...)."
        )
    return _resize_crop


def _resize_crop(processor: Any, frame: Frame) -> Frame:
    if processor.do_resize:
        resized = processor.resize(_pixels(processor, frame.size_hw), size=processor.size)
        frame = frame.resize((resized.shape[-2], resized.shape[-1]))
    return _center_crop(processor, frame, processor.crop_size) if getattr(processor, "do_center_crop", None) else frame


def _convnext(processor: Any, frame: Frame) -> Frame:
    if processor.do_resize:
        edge = processor.size.shortest_edge
        if edge >= _FULL_SIZE:
            frame = frame.resize((edge, edge))
        else:
            frame = frame.resize_shorter(int(edge / processor.crop_pct))
            frame = _center_crop(processor, frame, type(processor.size)(height=edge, width=edge))
    return _center_crop(processor, frame, processor.crop_size) if processor.do_center_crop else frame


def _owlv2(processor: Any, frame: Frame) -> Frame:
    side = max(frame.size_hw)
    if processor.do_pad and frame.size_hw != (side, side):
        frame = frame.pad(0, 0, side - frame.size_hw[1], side - frame.size_hw[0])
    return frame.resize((processor.size.height, processor.size.width)) if processor.do_resize else frame


def _center_crop(processor: Any, frame: Frame, size: Any) -> Frame:
    """Cropped by the processor's own rule, read off pixels that hold their row and column, counted from 1."""
    height, width = frame.size_hw
    y, x = np.mgrid[1 : height + 1, 1 : width + 1]
    numbered = _pixels(processor, frame.size_hw, np.stack((y, x, x)).astype(np.float32))
    cropped = np.asarray(processor.center_crop(numbered, size))
    row, column = (int(place[0]) for place in np.nonzero(cropped[0]))
    top, left = int(cropped[0, row, column]) - 1 - row, int(cropped[1, row, column]) - 1 - column
    return frame.crop(top, left, cropped.shape[1], cropped.shape[2])


def _pixels(processor: Any, size_hw: tuple[int, int], values: Any = None) -> Any:
    """An image [3, H, W] of the kind that the processor's backend works on, black if no values are given."""
    values = np.zeros((3, *size_hw), dtype=np.uint8) if values is None else values
    return torch.from_numpy(values) if processor.backend == "torchvision" else values
