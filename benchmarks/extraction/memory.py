"""Whether memory grows with the collection: a hundred thousand small photographs, against a thousand."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.photographs import load_photographs
from roialign.extraction import open as open_store

from .kept import Kept
from .processes import watched

SIDE_PX, BOXES = 64, 20
_PER_FOLDER = 1000
_BACKBONE = '''
"""A very small backbone of stride 8."""

import torch
from torch import nn


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU())
'''
Row = dict[str, Any]


def memories(counts: tuple[int, ...], kept: Kept, scratch: Path) -> Iterator[Row]:
    """Of a collection with each number of images."""
    for count in counts:
        yield kept.result(f"memory/{count} images", {}, partial(_measured, count, scratch / f"{count} images"))


def collection(folder: Path, count: int) -> None:
    """Small cuts of photographs in `folder`/photos, and as a COCO file BOXES boxes for each, written as they are made.

    What a stopped run has finished is kept.
    """
    if (folder / "boxes.json").exists():
        return
    pictures = load_photographs()
    for first in range(0, count, _PER_FOLDER):
        numbers, part = range(first, min(first + _PER_FOLDER, count)), folder / "photos" / f"{first // _PER_FOLDER:03d}"
        if not part.exists():
            _cut(pictures, numbers, part)
    unfinished = folder / "boxes.part"
    with unfinished.open("w") as file:
        file.write('{"categories": [{"id": 1, "name": "cut"}], "images": [\n')
        for number in range(count):
            image = {"id": number, "file_name": _name(number), "height": SIDE_PX, "width": SIDE_PX}
            file.write(f"{',' if number else ''}{json.dumps(image)}\n")
        file.write('], "annotations": [\n')
        for number in range(count * BOXES):
            mark = {"id": number, "image_id": number // BOXES, "category_id": 1, "bbox": _box(number)}
            file.write(f"{',' if number else ''}{json.dumps(mark)}\n")
        file.write("]}\n")
    unfinished.replace(folder / "boxes.json")


def _cut(pictures: list[Image.Image], numbers: range, part: Path) -> None:
    unfinished = part.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number in numbers:
        draw = random.Random(number)
        picture = draw.choice(pictures)
        left, top = (draw.randrange(length - SIDE_PX) for length in picture.size)
        cut = picture.crop((left, top, left + SIDE_PX, top + SIDE_PX))
        cut.save(unfinished / Path(_name(number)).name, quality=90)
    unfinished.rename(part)
    print(f"  {numbers.stop} photographs", flush=True)


def _name(number: int) -> str:
    return f"{number // _PER_FOLDER:03d}/{number:06d}.jpg"


def _box(number: int) -> list[float]:
    """x, y, width, height."""
    draw = random.Random(number)
    width, height = draw.uniform(8, SIDE_PX), draw.uniform(8, SIDE_PX)
    return [
        round(value, 2)
        for value in (draw.uniform(0, SIDE_PX - width), draw.uniform(0, SIDE_PX - height), width, height)
    ]


def _measured(count: int, folder: Path) -> Row:
    collection(folder, count)
    shutil.rmtree(folder / "regions", ignore_errors=True)
    (folder / "small.py").write_text(_BACKBONE)
    command = [sys.executable, "-m", "roialign", "extract", "photos", "--boxes", "boxes.json", "--out", "regions"]
    peak = watched([*command, "--backbone", "small.py:small"], folder)
    regions = open_store(folder / "regions")
    if len(regions) != count * BOXES:
        raise SystemExit(f"expected {count * BOXES} rows; got {len(regions)}")
    stored = [path for part in ("parts", "errors") for path in (folder / "regions" / part).iterdir()]
    return {
        "images": count,
        "boxes": len(regions),
        "peak_pss_mb": peak.pss_mb,
        "peak_rss_mb": peak.rss_mb,
        "processes": peak.processes,
        "seconds": peak.seconds,
        "images_per_s": count / peak.seconds,
        "store_mb": sum(path.stat().st_size for path in stored) / 1e6,
        "index_mb": (folder / "regions" / "index.sqlite").stat().st_size / 1e6,
        "channels": regions.manifest.schema.feature_shape[0],
    }
