"""Photographs with boxes and masks from a folder of VOC's or COCO's form.

Boxes are xyxy in pixels of the photograph, edges of pixels being whole numbers: a box over the whole of an image of 640
x 480 pixels is 0, 0, 640, 480.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import torch
from hotcoco import mask as rle
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Photo:
    """A photograph on the disk and its annotated boxes."""

    path: Path
    size_hw: tuple[int, int]
    boxes_xyxy: Tensor  # [K, 4] float32
    labels: Tensor  # [K] int64, 1 for the first class; 0 is the background
    crowd: Tensor  # [K] bool: groups and difficult objects, which are neither trained on nor counted
    outlines: tuple[Any, ...] | None = None  # of each box: COCO's polygons or its run lengths

    def pixels(self) -> Tensor:
        """[3, H, W] uint8, in the file's own order of pixels, as its annotations are."""
        with Image.open(self.path) as image:
            return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()

    def masks(self) -> Tensor | None:
        """[K, H, W] uint8, or None where the folder has boxes only."""
        if self.outlines is None:
            return None
        if not self.outlines:
            return torch.zeros(0, *self.size_hw, dtype=torch.uint8)
        return torch.from_numpy(rle.decode([run_lengths(one, self.size_hw) for one in self.outlines])).permute(2, 0, 1)


@dataclass(frozen=True)
class Photos:
    """The photographs of one split, and the names of the classes: label 1 is `classes[0]`."""

    photos: list[Photo]
    classes: tuple[str, ...]
    left_out: list[str] = field(default_factory=list)  # annotations that are no boxes, in words

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[Photo]:
        return iter(self.photos)

    @property
    def has_masks(self) -> bool:
        return all(photo.outlines is not None for photo in self.photos)


def read(folder: Path, split: str, classes: Sequence[str] | None = None) -> Photos:
    """The photographs of `split` in a folder.

    VOC: `JPEGImages/NAME.jpg`, `Annotations/NAME.xml`, `ImageSets/Main/SPLIT.txt`.
    COCO: `annotations/SPLIT.json` or `annotations/instances_SPLIT.json`; images in `SPLIT/`, `images/` or the folder.

    Args:
        classes: those of the training, in its order; by default all that occur, VOC's by the alphabet and COCO's by
            their ids.
    """
    names = [folder / "annotations" / f"{start}{split}.json" for start in ("", "instances_")]
    listing = next((path for path in names if path.exists()), None)
    if listing is not None:
        return _read_coco(folder, split, listing, classes)
    if (folder / "ImageSets" / "Main").is_dir():
        return _read_voc(folder, split, classes)
    raise SystemExit(
        f"expected a folder of VOC's form (ImageSets/Main/{split}.txt) or COCO's (annotations/{split}.json); "
        f"{folder} has neither"
    )


def run_lengths(outline: Any, size_hw: tuple[int, int]) -> Any:
    """COCO's compressed run lengths of polygons, of plain run lengths, or of what is compressed already."""
    if isinstance(outline, list):
        return rle.merge(rle.frPyObjects(outline, *size_hw))
    if isinstance(outline["counts"], list):
        return rle.frPyObjects(outline, *size_hw)
    return outline


def _read_voc(folder: Path, split: str, classes: Sequence[str] | None) -> Photos:
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.exists():
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise SystemExit(f"expected a split of {folder}, {' or '.join(there)}; got {split}")
    names = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
    pages = {name: ElementTree.parse(folder / "Annotations" / f"{name}.xml") for name in names}
    if classes is None:
        classes = sorted({thing.findtext("name", "") for page in pages.values() for thing in page.iter("object")})
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    photos, left_out = [], []
    for name, page in pages.items():
        rows, labels, crowd = [], [], []
        for thing in page.iter("object"):
            corners = [float(thing.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax")]
            kind = thing.findtext("name", "")
            if not (corners[0] < corners[2] and corners[1] < corners[3]) or kind not in label_of:
                left_out.append(f"{name}: {kind} {corners}")
                continue
            rows.append([corners[0] - 1, corners[1] - 1, *corners[2:]])  # VOC counts pixels from 1, the last included
            labels.append(label_of[kind])
            crowd.append(thing.findtext("difficult", "0").strip() == "1")
        path = folder / "JPEGImages" / f"{name}.jpg"
        photos.append(_photo(path, _size_hw(path), rows, labels, crowd, None))
    return Photos(photos, tuple(classes), left_out)


def _read_coco(folder: Path, split: str, listing: Path, classes: Sequence[str] | None) -> Photos:
    content = json.loads(listing.read_text())
    categories = sorted(content["categories"], key=lambda one: one["id"])
    if classes is None:
        classes = [one["name"] for one in categories]
    label_of = {one["id"]: classes.index(one["name"]) + 1 for one in categories if one["name"] in classes}
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    roots = [root for root in (folder / split, folder / "images", folder) if root.is_dir()]
    photos, left_out = [], []
    for entry in content["images"]:
        kept = []
        for annotation in of_image[entry["id"]]:
            if min(annotation["bbox"][2:]) > 0 and annotation["category_id"] in label_of:
                kept.append(annotation)
            else:
                left_out.append(f"{entry['file_name']}: category {annotation['category_id']}, {annotation['bbox']}")
        path = next((root / entry["file_name"] for root in roots if (root / entry["file_name"]).exists()), None)
        if path is None:
            raise SystemExit(f"expected {entry['file_name']} of {listing} in {' or '.join(map(str, roots))}")
        rows = [[x, y, x + width, y + height] for x, y, width, height in (annotation["bbox"] for annotation in kept)]
        labels = [label_of[annotation["category_id"]] for annotation in kept]
        crowd = [bool(annotation.get("iscrowd", 0)) for annotation in kept]
        outlines = tuple(annotation["segmentation"] for annotation in kept) if all(map(_has_outline, kept)) else None
        photos.append(_photo(path, (entry["height"], entry["width"]), rows, labels, crowd, outlines))
    return Photos(photos, tuple(classes), left_out)


def _has_outline(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("segmentation"))


def _photo(
    path: Path,
    size_hw: tuple[int, int],
    rows: list[list[float]],
    labels: list[int],
    crowd: list[bool],
    outlines: tuple[Any, ...] | None,
) -> Photo:
    return Photo(
        path,
        size_hw,
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowd, dtype=torch.bool),
        outlines,
    )


def _size_hw(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:  # reads the head of the file only
        return image.height, image.width
