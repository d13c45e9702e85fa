"""Small pictures with discs and squares in them, written as folders of VOC's and COCO's form."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

SIDE_WH = (112, 80)
CLASSES = ("disc", "square")
Things = list[tuple[str, tuple[int, int, int, int]]]
"""The name of each thing and its box, xyxy in pixels, edges of pixels being whole numbers."""


def scene(seed: int) -> tuple[Image.Image, Things]:
    """A picture and what is in it."""
    draws = random.Random(seed)
    picture = Image.new("RGB", SIDE_WH, (90, 100, 110))
    pen, things = ImageDraw.Draw(picture), []
    for column in range(2):
        name, side = draws.choice(CLASSES), draws.randrange(20, 40)
        left, top = 56 * column + draws.randrange(56 - side), draws.randrange(80 - side)
        last = (left, top, left + side - 1, top + side - 1)
        if name == "disc":
            pen.ellipse(last, fill=(230, 60, 60))
        else:
            pen.rectangle(last, fill=(60, 60, 230))
        things.append((name, (left, top, left + side, top + side)))
    return picture, things


def write_voc(folder: Path, splits: dict[str, range]) -> Path:
    """The scenes of these seeds in each split."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, seeds in splits.items():
        for seed in seeds:
            picture, things = scene(seed)
            picture.save(folder / "JPEGImages" / f"{seed}.jpg", quality=95)
            objects = "".join(_voc_object(name, box) for name, box in things)
            (folder / "Annotations" / f"{seed}.xml").write_text(f"<annotation>{objects}</annotation>")
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{seed}\n" for seed in seeds))
    return folder


def write_coco(folder: Path, splits: dict[str, range]) -> Path:
    """The same with outlines, by turns a polygon and run lengths. Category ids have gaps, as COCO's."""
    (folder / "annotations").mkdir(parents=True)
    for split, seeds in splits.items():
        (folder / split).mkdir()
        images, marks = [], []
        for seed in seeds:
            picture, things = scene(seed)
            picture.save(folder / split / f"{seed}.png")
            images.append({"id": 10 * seed, "file_name": f"{seed}.png", "width": SIDE_WH[0], "height": SIDE_WH[1]})
            for name, box in things:
                marks.append(_coco_mark(len(marks) + 1, 10 * seed, name, box))
        categories = [{"id": 5 * index + 3, "name": name} for index, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": marks, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def _voc_object(name: str, box: tuple[int, int, int, int]) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox></object>"


def _coco_mark(number: int, image: int, name: str, box: tuple[int, int, int, int]) -> dict[str, object]:
    left, top, right, bottom = box
    polygon = [left, top, right, top, right, bottom, left, bottom]
    counts, height = [left * SIDE_WH[1] + top], SIDE_WH[1]
    for _ in range(right - left):  # column by column
        counts += [bottom - top, height - (bottom - top)]
    counts[-1] = SIDE_WH[0] * height - sum(counts[:-1])
    outline = [polygon] if number % 2 else {"size": [height, SIDE_WH[0]], "counts": counts}
    return {
        "id": number,
        "image_id": image,
        "category_id": 5 * CLASSES.index(name) + 3,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "segmentation": outline,
    }
