"""Real photographs: those that come with scikit-image, scikit-learn and the deepforest wheel."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor

WHEEL = Path("demo/data/deepforest-2.1.0-py3-none-any.whl")
SKIMAGE = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg"),
    *("ihc.png", "camera.png", "coins.png", "brick.png", "grass.png", "gravel.png", "moon.png", "retina.jpg"),
    *("cell.png", "clock_motion.png"),
)
SKLEARN = ("china.jpg", "flower.jpg")
NEON = (
    *("OSBS_029", "SOAP_031", "SOAP_061", "2019_YELL_2_541000_4977000_image_crop"),
    "2019_YELL_2_528000_4978000_image_crop2",
)
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Trees:
    """An aerial photograph and the boxes [K, 4], xyxy in its pixels, that people drew around its trees."""

    name: str
    photograph: Image.Image
    boxes_xyxy: Tensor


def load_photographs() -> list[Image.Image]:
    """23 photographs: people, things, textures, microscopy, the sky, woods from above."""
    found = [Image.open(str(files("skimage") / "data" / name)) for name in SKIMAGE]
    found += [Image.open(str(files("sklearn") / "datasets" / "images" / name)) for name in SKLEARN]
    with zipfile.ZipFile(WHEEL) as wheel:
        found += [Image.open(wheel.open(f"deepforest/data/{name}.png")).convert("RGB") for name in NEON]
    return [photograph.convert("RGB") for photograph in found]


def load_folder(folder: Path, most: int) -> list[Image.Image]:
    """At most `most` photographs of a folder, spread evenly over them in order of their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    count = min(most, len(paths))
    return [Image.open(paths[index * len(paths) // count]).convert("RGB") for index in range(count)]


def load_trees() -> list[Trees]:
    """The tiles of the deepforest wheel whose trees are boxed."""
    found = []
    with zipfile.ZipFile(WHEEL) as wheel:
        names = set(wheel.namelist())
        for name in NEON:
            if f"deepforest/data/{name}.xml" not in names:
                continue
            photograph = Image.open(wheel.open(f"deepforest/data/{name}.png")).convert("RGB")
            found.append(Trees(name, photograph, _boxes_in(wheel.open(f"deepforest/data/{name}.xml"))))
    return found


def load_drawn(folder: Path, most: int) -> list[tuple[Image.Image, Tensor]]:
    """At most `most` photographs anywhere in a folder that have a Pascal VOC file, with its boxes [K, 4], xyxy."""
    photographs = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}
    pairs = [(photographs[path.stem], path) for path in sorted(folder.rglob("*.xml")) if path.stem in photographs]
    count = min(most, len(pairs))
    chosen = [pairs[index * len(pairs) // count] for index in range(count)]
    found = [(Image.open(photograph).convert("RGB"), _boxes_in(boxes)) for photograph, boxes in chosen]
    return [(photograph, boxes) for photograph, boxes in found if len(boxes)]


def _boxes_in(file: IO[bytes] | Path) -> Tensor:
    """The boxes [K, 4], xyxy, of a Pascal VOC file."""
    rows = [
        [float(box.findtext(corner, "nan")) for corner in ("xmin", "ymin", "xmax", "ymax")]
        for box in ElementTree.parse(file).iter("bndbox")
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def square(photograph: Image.Image, side_px: int) -> Image.Image:
    """The middle of the photograph, its shorter side resized to `side_px`."""
    scale = side_px / min(photograph.size)
    width, height = (max(side_px, round(length * scale)) for length in photograph.size)
    left, top = (width - side_px) // 2, (height - side_px) // 2
    resized = photograph.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side_px, top + side_px))


def as_tensor(photograph: Image.Image) -> Tensor:
    """[3, H, W] in [0, 1]."""
    pixels = torch.frombuffer(bytearray(photograph.tobytes()), dtype=torch.uint8)
    return pixels.view(photograph.height, photograph.width, 3).permute(2, 0, 1).float() / 255
