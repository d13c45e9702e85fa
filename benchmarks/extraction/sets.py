"""The photographs with boxes, in Pascal VOC's form, that are extracted from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

from benchmarks.photographs import WHEEL, Trees, load_trees

TILE_PX, STEP_PX = 400, 200
_LEAST_PX = 4  # of the side of a box


@dataclass(frozen=True)
class Boxed:
    """A folder of photographs and one of annotations; images enter the backbones at `size_hw`."""

    name: str
    photos: Path
    annotations: Path
    size_hw: tuple[int, int]

    def paths(self) -> list[Path]:
        """Of the photographs, in order."""
        return sorted(self.photos.iterdir())

    def some(self, folder: Path, count: int) -> Boxed:
        """The first `count` of them, as links in a new folder."""
        shutil.rmtree(folder, ignore_errors=True)
        chosen = Boxed(self.name, folder / "photos", folder / "annotations", self.size_hw)
        chosen.photos.mkdir(parents=True)
        chosen.annotations.mkdir()
        for path in self.paths()[:count]:
            notes = self.annotations / f"{path.stem}.xml"
            (chosen.photos / path.name).symlink_to(path.resolve())
            (chosen.annotations / notes.name).symlink_to(notes.resolve())
        return chosen


def sets(bccd: Path | None, folder: Path) -> Iterator[Boxed]:
    """Those that are there."""
    if bccd is not None:
        yield Boxed("Blood cells", bccd / "JPEGImages", bccd / "Annotations", (480, 640))
    if WHEEL.exists():
        yield _tiles(folder / "trees")


def voc_boxes(path: Path) -> tuple[Tensor, list[str]]:
    """The boxes [K, 4] float32 of an annotation, xyxy with edges of pixels as whole numbers, and their labels."""
    marked = list(ElementTree.parse(path).iter("object"))
    rows = [
        [float(one.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")] for one in marked
    ]
    boxes = torch.tensor(rows).reshape(-1, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0])
    return boxes, [one.findtext("name", "") for one in marked]


def _tiles(folder: Path) -> Boxed:
    """Tiles of the aerial photographs of the deepforest wheel that overlap, with the trees in them."""
    found = Boxed("Trees", folder / "photos", folder / "annotations", (512, 512))
    if not (folder / "done").exists():
        for part in (found.photos, found.annotations):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        for trees in load_trees():
            _cut(trees, found)
        (folder / "done").touch()
    return found


def _cut(trees: Trees, into: Boxed) -> None:
    width, height = trees.photograph.size
    for top in range(0, height - TILE_PX + 1, STEP_PX):
        for left in range(0, width - TILE_PX + 1, STEP_PX):
            moved = trees.boxes_xyxy - torch.tensor([left, top] * 2)
            centres, inside = (moved[:, :2] + moved[:, 2:]) / 2, moved.clamp(0, TILE_PX)
            kept = ((centres > 0) & (centres < TILE_PX)).all(1) & ((inside[:, 2:] - inside[:, :2]).amin(1) >= _LEAST_PX)
            if not bool(kept.any()):
                continue
            name = f"{trees.name} {top:04d} {left:04d}"
            tile = trees.photograph.crop((left, top, left + TILE_PX, top + TILE_PX))
            tile.save(into.photos / f"{name}.jpg", quality=95)
            (into.annotations / f"{name}.xml").write_text(_voc(f"{name}.jpg", inside[kept]))


def _voc(name: str, boxes_xyxy: Tensor) -> str:
    objects = "".join(
        f"<object><name>Tree</name><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax>"
        f"<ymax>{y2:g}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in boxes_xyxy.tolist()
    )
    size = f"<size><width>{TILE_PX}</width><height>{TILE_PX}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
