"""Images as a backbone takes them: resized and padded as a frame says, normalized, put into one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from roialign.errors import FeatureMapError, FrameError
from roialign.geometry import Frame

Fit = Callable[[Frame], Frame]


class ImageBatch(NamedTuple):
    """Images as they enter a backbone."""

    pixels: Tensor
    """[N, C, H, W]"""
    frames: tuple[Frame, ...]
    """The frame of each image in the batch; its `root` or one of its parents is the image as it was given."""


class Array(Protocol):
    """An image as NumPy and PIL hold it."""

    @property
    def __array_interface__(self) -> Any: ...


Image = Tensor | Array | str | PathLike[str]
Images = ImageBatch | Image | Sequence[Image]


def render(image_chw: Tensor, frame: Frame, target: Frame) -> Tensor:
    """The pixels of `target` [C, H, W], a frame made of `frame`, whose pixels are `image_chw`."""
    steps = target.chain
    if frame not in steps:
        raise FrameError(
            f"RA107: expected `fit` to return a frame made of the one it was given, such as frame.resize((800, 1344)); "
            f"got {target} for {frame}."
        )
    for step, parent in zip(steps[steps.index(frame) + 1 :], steps[steps.index(frame) :], strict=False):
        image_chw = _step(image_chw, parent, step)
    return image_chw


def _step(image_chw: Tensor, parent: Frame, step: Frame) -> Tensor:
    move = parent.map_to(step)
    parent_hw = parent.size_hw[::-1] if move.transposed else parent.size_hw
    image_chw = image_chw.transpose(1, 2) if move.transposed else image_chw
    flipped = [axis for axis, scale in zip((1, 2), move.scale_yx, strict=True) if scale < 0]
    image_chw = image_chw.flip(flipped) if flipped else image_chw
    # A flip maps 0 to the far edge: where the near edge comes to lie is how much is padded there, below zero cropped.
    sides = list(zip(parent_hw, step.size_hw, move.scale_yx, move.shift_yx, strict=True))
    near = [shift + min(scale, 0) * old for old, _, scale, shift in sides]
    far = [new - start - abs(scale) * old for (old, new, scale, _), start in zip(sides, near, strict=True)]
    if all(abs(scale) == 1 and float(shift).is_integer() for _, _, scale, shift in sides):
        (top, left), (bottom, right) = map(round, near), map(round, far)
        return F.pad(image_chw, [left, right, top, bottom]) if any((top, left, bottom, right)) else image_chw
    if any(abs(rest) > 1e-6 for rest in (*near, *far)):
        raise FrameError(
            f"RA107: expected steps that resize, pad, crop by whole pixels, flip or turn; got {step.name} {move}. Do "
            "it to the pixels yourself, and pass images and frames."
        )
    resized = F.interpolate(image_chw[None].float(), step.size_hw, mode="bilinear", antialias=True)
    return resized[0].to(image_chw.dtype)


def batch(images: Sequence[Tensor], frames: Sequence[Frame]) -> ImageBatch:
    """One batch of all images, smaller ones padded with zeros at the bottom and on the right."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded, padded_frames = [], []
    for image, frame in zip(images, frames, strict=True):
        if image.shape[0] != images[0].shape[0]:
            raise FeatureMapError(
                f"RA307: expected images of one number of channels; got {images[0].shape[0]} and {image.shape[0]}. "
                'Make them all RGB: image.convert("RGB"), or image.expand(3, -1, -1) for a grey tensor.'
            )
        below, beside = height - image.shape[1], width - image.shape[2]
        padded.append(F.pad(image, [0, beside, 0, below]) if below or beside else image)
        padded_frames.append(frame.pad(0, 0, beside, below) if below or beside else frame)
    return ImageBatch(torch.stack(padded), tuple(padded_frames))


def listed(images: Any) -> list[Any]:
    """The images one by one."""
    if isinstance(images, Tensor) and images.dim() == 4:
        return list(images)
    if isinstance(images, (list, tuple)):
        if not images:
            raise FeatureMapError("RA307: expected an image, or a list of images; got an empty list.")
        return list(images)
    return [images]
