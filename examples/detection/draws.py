"""What a training step looks at: photographs in a random order, each seen through a random view.

All of it follows from the seed and the number of the draw. So there is no state to keep: a training that is continued
at draw 1234, in any number of processes, sees what one that was never interrupted sees.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, Sampler

from .data import Photo, Photos

Target = dict[str, Tensor]
_LEAST_VISIBLE = 0.3  # of a box's area, for it to be kept where the view cuts through it
_LEAST_SIDE_PX = 2


def seed_of(*numbers: int) -> int:
    """A seed that has nothing to do with that of other numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest())


@dataclass(frozen=True)
class View:
    """How a photograph may be shown."""

    size_hw: tuple[int, int]  # of the canvas: the same for all, so that no image is padded for its neighbours
    zoom: tuple[float, float] = (0.8, 1.25)  # beside the size at which it fits the canvas
    any_way_up: bool = False  # mirrored top to bottom and turned, too: from above, or through a microscope
    light: float = 0.2  # brightness, contrast and each colour by up to this share

    def of(self, photo: Photo, draws: torch.Generator) -> tuple[Tensor, Target]:
        """The image [3, H, W] in 0..1 on the canvas, and its targets as torchvision's detectors take them."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=draws))

        learnt = ~photo.crowd
        image, boxes, labels, masks = photo.pixels(), photo.boxes_xyxy[learnt], photo.labels[learnt], photo.masks()
        masks = masks[learnt] if masks is not None else None
        if self.any_way_up and uniform(0, 1) < 0.5:
            image, boxes = image.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
            masks = masks.transpose(1, 2) if masks is not None else None
        height, width = image.shape[1:]
        fit = min(self.size_hw[0] / height, self.size_hw[1] / width)
        scale = fit * math.exp(uniform(*map(math.log, self.zoom)))
        resized_hw = round(height * scale), round(width * scale)
        top, left = (round(uniform(min(0, room), max(0, room))) for room in self._room(resized_hw))
        image = _shown(image, resized_hw, (top, left), self.size_hw)
        ratio_xy = torch.tensor([resized_hw[1] / width, resized_hw[0] / height])
        whole = boxes * ratio_xy.repeat(2) + torch.tensor([left, top, left, top])
        boxes = whole.clamp(min=0).minimum(torch.tensor([self.size_hw[1], self.size_hw[0]]).repeat(2))
        sides = boxes[:, 2:] - boxes[:, :2]
        visible = sides.prod(1) >= _LEAST_VISIBLE * (whole[:, 2:] - whole[:, :2]).prod(1)
        kept = visible & (sides >= _LEAST_SIDE_PX).all(1)
        target = {"boxes": boxes[kept], "labels": labels[kept]}
        if masks is not None:
            target["masks"] = _shown_masks(masks[kept], resized_hw, (top, left), self.size_hw)
        if uniform(0, 1) < 0.5:
            image, target = _mirrored(image, target)
        if self.any_way_up and uniform(0, 1) < 0.5:
            image, target = _flipped(image, target)
        gain = torch.tensor([uniform(1 - self.light, 1 + self.light) for _ in range(3)]).reshape(3, 1, 1)
        contrast, brightness = uniform(1 - self.light, 1 + self.light), uniform(-self.light, self.light) / 2
        mean = image.mean()
        return (((image - mean) * contrast + mean) * gain.sqrt() + brightness).clamp(0, 1), target

    def _room(self, resized_hw: tuple[int, int]) -> Iterator[int]:
        return (canvas - resized for canvas, resized in zip(self.size_hw, resized_hw, strict=True))


class Draws(Dataset[tuple[Tensor, Target]]):
    """Draw number n of a training: photograph n of the endless shuffled sequence, in the view of that number."""

    def __init__(self, photos: Photos, view: View, seed: int) -> None:
        self.photos, self.view, self.seed = photos, view, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, number: int) -> tuple[Tensor, Target]:
        epoch, place = divmod(number, len(self.photos))
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(len(self.photos), generator=_draws(self.seed, 0, epoch)).tolist()
        photo = self.photos.photos[self._order[1][place]]
        return self.view.of(photo, _draws(self.seed, 1, number))


class Steps(Sampler[list[int]]):
    """The draws of each step from `first` to `last` that are this process's: of each batch every `world`th."""

    def __init__(self, first: int, last: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.first, self.last, self.batch, self.rank, self.world = first, last, batch, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield list(range(step * self.batch + self.rank, (step + 1) * self.batch, self.world))


def _draws(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*numbers))


def _shown(
    image: Tensor, resized_hw: tuple[int, int], corner_yx: tuple[int, int], canvas_hw: tuple[int, int]
) -> Tensor:
    """Resized, and put or cut onto a grey canvas with its corner at `corner_yx`."""
    resized = functional.interpolate(image[None].float() / 255, resized_hw, mode="bilinear", antialias=True)[0]
    return _placed(resized, corner_yx, canvas_hw, 0.5)


def _shown_masks(
    masks: Tensor, resized_hw: tuple[int, int], corner_yx: tuple[int, int], canvas_hw: tuple[int, int]
) -> Tensor:
    if not len(masks):
        return torch.zeros(0, *canvas_hw, dtype=torch.uint8)
    resized = functional.interpolate(masks[:, None].float(), resized_hw, mode="bilinear", antialias=True)[:, 0]
    return _placed((resized > 0.5).to(torch.uint8), corner_yx, canvas_hw, 0)


def _placed(image: Tensor, corner_yx: tuple[int, int], canvas_hw: tuple[int, int], ground: float) -> Tensor:
    (top, left), (height, width) = corner_yx, image.shape[-2:]
    sides = left, canvas_hw[1] - left - width, top, canvas_hw[0] - top - height
    return functional.pad(image, sides, value=ground)  # negative ones crop


def _mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[2]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    return image.flip(2), target | {"boxes": boxes} | {key: target[key].flip(2) for key in target.keys() & {"masks"}}


def _flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    left, top, right, bottom = target["boxes"].unbind(1)
    height = image.shape[1]
    boxes = torch.stack([left, height - bottom, right, height - top], 1)
    return image.flip(1), target | {"boxes": boxes} | {key: target[key].flip(1) for key in target.keys() & {"masks"}}
