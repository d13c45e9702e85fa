"""The photographs of the benchmark of the doctor, and boxes in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .doctor_pipelines import Scene, boxes_of
from .photographs import SKIMAGE, SKLEARN, as_tensor, load_drawn, load_folder

_MOST_PIXELS = 800
_MOST_OF_A_FOLDER = 100
_FORMATS = (
    4 / 3,
    3 / 2,
    16 / 9,
    4 / 3,
    3 / 2,
    3 / 4,
    2 / 3,
    1.0,
)  # of cameras; many photographs of scikit-image are square


@dataclass(frozen=True)
class Album:
    """Photographs of which scenes are drawn."""

    photographs: list[Image.Image]
    drawn: list[tuple[Image.Image, Tensor]]
    """Those with boxes that people drew around the things in them, [K, 4], xyxy."""

    def scene(self, counts: Sequence[int], rng: random.Random, square: bool = False) -> Scene:
        """A photograph cropped to the format of a camera, with boxes anywhere in it."""
        photograph, aspect = rng.choice(self.photographs), rng.choice(_FORMATS)
        pixels = as_tensor(_cropped(photograph, 1.0 if square else aspect))
        return Scene(pixels, boxes_of((pixels.shape[1], pixels.shape[2]), rng.choice(counts), rng))

    def drawn_scene(self, counts: Sequence[int], rng: random.Random, square: bool = False) -> Scene:
        """A photograph with some of the boxes that people drew in it."""
        photograph, boxes = rng.choice(self.drawn)
        if square:
            photograph, boxes = _middle(photograph, boxes)
        chosen = sorted(rng.sample(range(len(boxes)), min(len(boxes), rng.choice(counts))))
        return Scene(as_tensor(photograph), boxes[chosen])

    def any_scene(self, counts: Sequence[int], rng: random.Random, square: bool = False) -> Scene:
        """One of both kinds, half of them with boxes that people drew, if there are any."""
        draw = self.drawn_scene if self.drawn and rng.random() < 0.5 else self.scene
        return draw(counts, rng, square)


def album(folder: Path | None) -> Album:
    """Those of scikit-image and scikit-learn, and of a folder, their longer side at most 800 pixels."""
    found: list[Image.Image] = [Image.open(str(files("skimage") / "data" / name)) for name in SKIMAGE]
    found += [Image.open(str(files("sklearn") / "datasets" / "images" / name)) for name in SKLEARN]
    found += load_folder(folder, _MOST_OF_A_FOLDER) if folder else []
    for photograph in found:
        photograph.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    drawn = [_small(*one) for one in load_drawn(folder, _MOST_OF_A_FOLDER)] if folder else []
    return Album([photograph.convert("RGB") for photograph in found], [one for one in drawn if len(one[1])])


def _small(photograph: Image.Image, boxes_xyxy: Tensor) -> tuple[Image.Image, Tensor]:
    """The photograph, its longer side at most 800 pixels, and its boxes that have an area."""
    width, height = photograph.size
    photograph.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    boxes = boxes_xyxy * boxes_xyxy.new_tensor([photograph.width / width, photograph.height / height] * 2)
    return photograph, boxes[(boxes[:, 2:] - boxes[:, :2] >= 4).all(1)].float()


def _middle(photograph: Image.Image, boxes_xyxy: Tensor) -> tuple[Image.Image, Tensor]:
    """The square in the middle, and the boxes that lie in it; any other square that has one, where it has none."""
    side = min(photograph.size)
    room = torch.tensor([photograph.width - side, photograph.height - side])
    for corner in (room // 2, room * 0, room):
        boxes = boxes_xyxy - corner.repeat(2)
        inside = ((boxes >= 0) & (boxes <= side)).all(1)
        if bool(inside.any()):
            break
    left, top = corner.tolist()
    boxes = boxes[inside] if bool(inside.any()) else boxes.clamp(0, side)
    return photograph.crop((left, top, left + side, top + side)), boxes


def _cropped(photograph: Image.Image, aspect: float) -> Image.Image:
    """The middle of the photograph, as wide as `aspect` times its height."""
    width = min(photograph.width, round(photograph.height * aspect))
    height = min(photograph.height, round(photograph.width / aspect))
    left, top = (photograph.width - width) // 2, (photograph.height - height) // 2
    return photograph.crop((left, top, left + width, top + height))
