"""The same things marked in the same images, in every form that is read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roialign.extraction.boxes import OpenBoxes, open_boxes
from roialign.extraction.items import ImageRef

CLASSES = ("cat", "dög", "traffic light")


@dataclass(frozen=True)
class Scene:
    name: str
    size_hw: tuple[int, int]
    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    labels: tuple[str, ...]


SCENES = (
    Scene("a/Ä 1.jpg", (480, 640), ((10, 20, 110, 220), (0, 0, 640, 480), (1.5, 2.25, 3.75, 9.5)), CLASSES),
    Scene("b/2.jpg", (64, 32), ((8, 4, 8, 16),), ("dög",)),
    Scene("b/3.jpg", (100, 200), (), ()),
)


def refs(*names: str) -> list[ImageRef]:
    return [ImageRef(name, f"/photos/{name}") for name in names]


IMAGES = refs(*(scene.name for scene in SCENES))


def opened(boxes: str | Path, tmp_path: Path, *names: str, **options: Any) -> OpenBoxes:
    return open_boxes(boxes, refs(*names) if names else IMAGES, tmp_path / "index.sqlite", **options)


def coco_page() -> dict[str, Any]:
    page: dict[str, Any] = {"images": [], "annotations": []}
    for number, scene in enumerate(SCENES, start=1):
        height, width = scene.size_hw
        page["images"].append({"id": number, "file_name": scene.name, "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(scene.boxes_xyxy, scene.labels, strict=True):
            mark = {"id": len(page["annotations"]), "image_id": number, "category_id": CLASSES.index(label) + 1}
            page["annotations"].append({**mark, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    page["categories"] = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return page


def write_coco(folder: Path) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(coco_page()))
    return path


def write_voc(folder: Path) -> Path:
    for scene in SCENES:
        things = "".join(
            f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(scene.boxes_xyxy, scene.labels, strict=True)
        )
        height, width = scene.size_hw
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        _write(folder / "voc" / scene.name, ".xml", f"<annotation>{size}{things}</annotation>")
    return folder / "voc"


def write_yolo(folder: Path) -> Path:
    (folder / "yolo").mkdir()
    (folder / "yolo" / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    for scene in SCENES:
        height, width = scene.size_hw
        lines = [
            f"{CLASSES.index(label)} {(x1 + x2) / 2 / width!r} {(y1 + y2) / 2 / height!r} {(x2 - x1) / width!r} "
            f"{(y2 - y1) / height!r}"
            for (x1, y1, x2, y2), label in zip(scene.boxes_xyxy, scene.labels, strict=True)
        ]
        _write(folder / "yolo" / scene.name, ".txt", "\n".join(lines))
    return folder / "yolo"


def rows() -> list[dict[str, Any]]:
    found = []
    for scene in SCENES:
        height, width = scene.size_hw
        of_image = {"image": scene.name, "image_height": height, "image_width": width}
        for box, label in zip(scene.boxes_xyxy, scene.labels, strict=True):
            found.append({**of_image, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)), "label": label})
        if not scene.boxes_xyxy:
            found.append({**of_image, "x1": None, "y1": None, "x2": None, "y2": None, "label": None})
    return found


def write_csv(folder: Path) -> Path:
    path = folder / "boxes.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows()[0])
        writer.writeheader()
        writer.writerows(rows())
    return path


def write_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `extraction`")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows()), folder / "boxes.parquet", row_group_size=2)
    return folder / "boxes.parquet"


def write_labelme(folder: Path) -> Path:
    for scene in SCENES:
        shapes = [
            {"label": label, "shape_type": "rectangle", "points": [[x2, y1], [x1, y2]], "group_id": None}
            for (x1, y1, x2, y2), label in zip(scene.boxes_xyxy, scene.labels, strict=True)
        ]
        page = {"shapes": shapes, "imageHeight": scene.size_hw[0], "imageWidth": scene.size_hw[1]}
        _write(folder / "labelme" / scene.name, ".json", json.dumps(page))
    return folder / "labelme"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "csv": write_csv,
    "parquet": write_parquet,
    "labelme": write_labelme,
}


def _write(image: Path, suffix: str, text: str) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    image.with_suffix(suffix).write_text(text, encoding="utf-8")
