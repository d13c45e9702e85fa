"""Small collections to extract from: photographs of coloured blocks with boxes around them, and a small backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

BACKBONE = '''
"""A small backbone for tests."""

import torch
from torch import nn


def pyramid():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
'''


def backbone_file(folder: Path) -> str:
    """A file with a backbone of stride 4 and 8 channels; the name to give for it."""
    path = folder / "small.py"
    path.write_text(BACKBONE, encoding="utf-8")
    return f"{path}:pyramid"


def picture(seed: int, size_hw: tuple[int, int] = (48, 64)) -> Image.Image:
    """Blocks of 8 x 8 pixels in random colours."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (-(-height // 8), -(-width // 8), 3), generator=generator, dtype=torch.uint8)
    pixels = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
    return Image.fromarray(pixels.numpy())


def boxes_of(seed: int, count: int, size_hw: tuple[int, int] = (48, 64)) -> list[list[float]]:
    """Boxes x, y, width, height within a picture."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(1000 + seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([[width - 6, height - 6]])
    low, high = corners.amin(1), corners.amax(1) + 5
    return torch.cat([low, high - low], 1).tolist()


def coco(path: Path, images: Sequence[dict[str, Any]], boxes: dict[int, list[list[float]]]) -> Path:
    """A COCO file: images with an id, a file_name, height and width; the boxes of each, by its id."""
    annotations = [
        {"id": 1000 * image + number, "image_id": image, "category_id": 1 + number % 2, "bbox": box}
        for image, some in boxes.items()
        for number, box in enumerate(some)
    ]
    categories = [{"id": 1, "name": "block"}, {"id": 2, "name": "blot"}]
    record = {"images": list(images), "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def collection(
    folder: Path, count: int, boxes: int = 3, sizes_hw: Sequence[tuple[int, int]] = ((48, 64), (64, 48))
) -> Path:
    """Photographs in `folder`/photos with as many boxes each, in `folder`/boxes.json, which is returned."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    images, marked = [], {}
    for number in range(count):
        size_hw = sizes_hw[number % len(sizes_hw)]
        name = f"{number:04d}.png"
        picture(number, size_hw).save(photos / name)
        images.append({"id": number, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
        marked[number] = boxes_of(number, boxes, size_hw)
    return coco(folder / "boxes.json", images, marked)
