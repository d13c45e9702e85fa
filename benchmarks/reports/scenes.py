"""What the programs share: pictures, boxes on them, and networks with random weights."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import torch
import torchvision
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.photographs import as_tensor

BLOOD = os.environ.get("ROIALIGN_BCCD")
"""The folder of the BCCD data set (https://github.com/Shenggan/BCCD_Dataset), where it is at hand."""

COINS_XYXY = (
    *((22, 33, 67, 74), (81, 39, 120, 74), (131, 28, 179, 74), (192, 30, 243, 73), (255, 34, 297, 72)),
    *((305, 16, 365, 72), (25, 104, 67, 146), (84, 107, 122, 145), (134, 110, 174, 145), (185, 105, 227, 144)),
    *((245, 96, 296, 144), (317, 105, 356, 145), (25, 178, 63, 217), (80, 175, 124, 217), (135, 179, 174, 217)),
    *((189, 170, 237, 216), (251, 172, 297, 216), (315, 156, 380, 218), (18, 233, 75, 288), (92, 245, 136, 287)),
    *((144, 236, 201, 288), (220, 241, 269, 288), (276, 240, 326, 288), (336, 248, 381, 289)),
)


class MissingPictureError(Exception):
    """A picture that a program needs is not on this machine."""


Picture = tuple[Tensor, Tensor]
"""Pixels [1, 3, H, W] in [0, 1], and boxes [K, 4], xyxy in its pixels, around the things in it."""


def photo(height: int, width: int, count: int = 1) -> Tensor:
    """Smooth noise [count, 3, H, W] in [0, 1], the same each time."""
    generator = torch.Generator().manual_seed(height * 7 + width)
    coarse = torch.rand(count, 3, 13, 17, generator=generator)
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def objects(
    height: float, width: float, count: int = 12, *, least: float = 0.05, most: float = 0.4, seed: int = 1
) -> Tensor:
    """Boxes [count, 4], xyxy, anywhere within the picture, their sides from `least` to `most` of its sides."""
    generator = torch.Generator().manual_seed(seed)
    size_wh = torch.tensor([width, height])
    sides_wh = (least + (most - least) * torch.rand(count, 2, generator=generator)) * size_wh
    corners = torch.rand(count, 2, generator=generator) * (size_wh - sides_wh)
    return torch.cat([corners, corners + sides_wh], 1)


def padded_batch(sizes_hw: list[tuple[int, int]]) -> Tensor:
    """Smooth noise of each size, filled up with zeros at the bottom and the right to the largest."""
    batch = torch.zeros(len(sizes_hw), 3, *map(max, zip(*sizes_hw, strict=True)))
    for index, (height, width) in enumerate(sizes_hw):
        batch[index, :, :height, :width] = photo(height, width)[0]
    return batch


def resized(image: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(image, (height, width), mode="bilinear")


def page(height: int = 792, width: int = 612, seed: int = 3) -> Picture:
    """A letter, its upper half filled with text, and the boxes of its lines."""
    drawn = random.Random(seed)
    paper = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(paper)
    words = ("where", "the", "cells", "of", "a", "map", "lie", "in", "an", "image", "was", "measured", "for", "it")
    boxes, y = [], 60
    while y < 0.55 * height:
        line = " ".join(drawn.choices(words, k=drawn.randint(5, 13)))[:84]
        pen.text((60, y), line, fill="black")
        boxes.append(pen.textbbox((60, y), line))
        y += 20 if drawn.random() < 0.8 else 44
    return as_tensor(paper)[None], torch.tensor(boxes, dtype=torch.float32)


def coins(height: int, width: int) -> Picture:
    """scikit-image's photograph of 24 coins, resized, and the box of each."""
    try:
        path = files("skimage") / "data" / "coins.png"
    except ModuleNotFoundError as error:
        raise MissingPictureError("needs scikit-image") from error
    image = as_tensor(Image.open(str(path)).convert("RGB"))[None]
    scale_xy = torch.tensor([width / image.shape[3], height / image.shape[2]])
    return resized(image, height, width), torch.tensor(COINS_XYXY, dtype=torch.float32) * scale_xy.repeat(2)


def blood(number: int) -> Picture:
    """A blood smear of BCCD, 480 high and 640 wide, and the boxes that people drew around its cells."""
    if BLOOD is None:
        raise MissingPictureError("needs ROIALIGN_BCCD, the folder of the BCCD data set")
    name = f"BloodImage_{number:05}"
    image = Image.open(Path(BLOOD) / "JPEGImages" / f"{name}.jpg").convert("RGB")
    corners = ("xmin", "ymin", "xmax", "ymax")
    cells = ElementTree.parse(Path(BLOOD) / "Annotations" / f"{name}.xml").iter("bndbox")
    boxes = [[float(cell.findtext(corner, "nan")) for corner in corners] for cell in cells]
    return as_tensor(image)[None], torch.tensor(boxes)


def mirrored(picture: Picture) -> Picture:
    image, boxes = picture
    width = image.shape[3]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(3), torch.stack([width - x2, y1, width - x1, y2], 1)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The network in evaluation mode, with the random weights of one seed."""
    torch.manual_seed(0)
    return build().eval()


def resnet(until: str = "layer3") -> nn.Sequential:
    """ResNet-18 up to layer1 (stride 4), layer2 (8), layer3 (16) or layer4 (32)."""
    whole = seeded(lambda: torchvision.models.resnet18(weights=None))
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return nn.Sequential(*(getattr(whole, name) for name in names[: names.index(until) + 1]))


def patches(channels: int, size: int) -> nn.Module:
    """One convolution of stride `size`, as transformers begin with."""
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, channels, size, size), nn.ReLU()))


class Tokens(nn.Module):
    """A transformer of patches of 14 pixels: tokens [N, 5 + cells, 32], of which five are of no cell."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 14, 14)
        self.others = nn.Parameter(torch.randn(1, 5, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images).flatten(2).transpose(1, 2)
        tokens: Tensor = self.block(torch.cat([self.others.expand(len(images), -1, -1), cells], 1))
        return tokens


def within(boxes_xyxy: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """The boxes that are centred in a window."""
    x, y = ((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2).unbind(1)
    return boxes_xyxy[(x > left) & (x < left + width) & (y > top) & (y < top + height)]
