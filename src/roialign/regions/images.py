"""Images as a backbone takes them: resized and padded as a frame says, normalized, those of one size together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from roialign.errors import FeatureMapError, FrameError
from roialign.geometry import Frame

Fit = Callable[[Frame], Frame]


class ImageGroup(NamedTuple):
    """Images of one size, which enter a backbone together."""

    indices: tuple[int, ...]
    """Which of all images they are."""
    pixels: Tensor
    """[n, C, H, W]"""


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images as they enter a backbone: those of one size together, others apart."""

    images: tuple[Tensor, ...]
    """[C, H, W] of each, all on one device and of one type."""
    frames: tuple[Frame, ...]
    """The frame of each image; its `root` or one of its parents is the image as it was given."""
    filled_hw: tuple[tuple[int, int], ...]
    """The size of each image before it was padded to that of the largest, which is its own where it was not."""

    @property
    def pixels(self) -> Tensor:
        """All of them in one tensor [N, C, H, W].

        Raises:
            FeatureMapError: RA307, if they have several sizes.
        """
        groups = self.groups()
        if len(groups) > 1:
            sizes = [f"{one.pixels.shape[2]} x {one.pixels.shape[3]}" for one in groups]
            raise FeatureMapError(
                f"RA307: expected images of one size, to put them into one tensor; got {', '.join(sizes)}. Take each "
                "of .images, or use a fit= that gives them one size."
            )
        return groups[0].pixels

    def groups(self) -> list[ImageGroup]:
        """The images of each size, in the order in which the sizes come."""
        indices: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(self.images):
            indices.setdefault((image.shape[1], image.shape[2]), []).append(index)
        return [
            ImageGroup(tuple(some), torch.stack([self.images[index] for index in some])) for some in indices.values()
        ]


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
            "RA107: expected `fit` to return a frame made from the one it was given, such as frame.resize((800, "
            f"1344)); got {target} for {frame}."
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
            f"RA107: expected steps that resize, pad, crop by whole pixels, flip or rotate; got {step.name} {move}. "
            "Apply it to the pixels yourself, and pass images and frames."
        )
    resized = F.interpolate(image_chw[None].float(), step.size_hw, mode="bilinear", antialias=True)
    return resized[0].to(image_chw.dtype)


def batch(images: Sequence[Tensor], frames: Sequence[Frame], padded: bool) -> ImageBatch:
    """The images as they are, or `padded` with zeros at the bottom and on the right to the size of the largest."""
    for image in images:
        if image.shape[0] != images[0].shape[0]:
            raise FeatureMapError(
                f"RA307: expected images with the same number of channels; got {images[0].shape[0]} and "
                f'{image.shape[0]}. Make them all RGB: image.convert("RGB"), or image.expand(3, -1, -1) for a grey '
                "tensor."
            )
    filled_hw = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
    if not padded or len(set(filled_hw)) == 1:
        return ImageBatch(tuple(images), tuple(frames), filled_hw)
    height, width = (max(sizes) for sizes in zip(*filled_hw, strict=True))
    entered = []
    for image, frame, (own_height, own_width) in zip(images, frames, filled_hw, strict=True):
        below, beside = height - own_height, width - own_width
        full = below == beside == 0
        entered.append(
            (image, frame) if full else (F.pad(image, [0, beside, 0, below]), frame.pad(0, 0, beside, below))
        )
    padded_images, padded_frames = zip(*entered, strict=True)
    return ImageBatch(padded_images, padded_frames, filled_hw)


def listed(images: Any) -> list[Any]:
    """The images one by one."""
    if isinstance(images, Tensor) and images.dim() == 4:
        return list(images)
    if isinstance(images, (list, tuple)):
        if not images:
            raise FeatureMapError("RA307: expected an image, or a list of images; got an empty list.")
        return list(images)
    return [images]
