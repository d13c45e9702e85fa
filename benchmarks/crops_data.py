"""Boxes to compare features on: blood cells, trees and nuclei, of two kinds or more each.

Boxes are xyxy in pixels of their image, edges of pixels being whole numbers.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from examples.detection.data import read
from PIL import Image
from torch import Tensor

import roialign

from .photographs import load_trees

WHEELS = Path("demo/data")  # `make` downloads them, as data
TREES_PX, MASK_PX = 400, 32
LEAST_SIDE_PX = 8.0
_TEST_TREES = ("2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
_TRIES = 200  # to place a box, before it is left out


@dataclass(frozen=True)
class Scene:
    """An image and boxes in it."""

    image: Tensor
    """uint8 [3, H, W]."""
    boxes_xyxy: Tensor
    """[K, 4] float32."""
    kinds: Tensor
    """int64 [K], indices of the set's kinds, which the probe has to tell apart."""
    things: Tensor
    """int64 [K], what retrieval looks for: boxes of one thing belong together; -1 takes no part."""
    groups: Tensor
    """int64 [K], what is drawn and what folds are made of: all of one group go together."""
    photograph: str
    """Neighbours of one photograph do not count as found."""
    for_test: bool
    masks: Tensor | None = None
    """[K, MASK_PX, MASK_PX], each over its box, where there are any."""


@dataclass(frozen=True)
class Boxed:
    """A set of scenes; `nearest` is how many neighbours are looked at, `scales` how far the image is enlarged."""

    name: str
    kinds: tuple[str, ...]
    scenes: tuple[Scene, ...]
    nearest: int
    scales: tuple[int, ...]


def load_cells(folder: Path, most: int) -> Boxed:
    """Blood cells and platelets of the BCCD data set; of each kind at most `most` boxes of each split."""
    scenes: list[Scene] = []
    kinds: tuple[str, ...] = ()
    for split in ("trainval", "test"):
        photos = read(folder, split, kinds or None)
        kinds = photos.classes
        labels = torch.cat([photo.labels - 1 for photo in photos])
        kept = at_most(labels, most, seed=0).split([len(photo.labels) for photo in photos])
        for photo, mask in zip(photos, kept, strict=True):
            if not bool(mask.any()):
                continue
            chosen = photo.labels[mask] - 1
            groups = torch.full_like(chosen, len(scenes))
            name = f"{split} {photo.path.stem}"
            scenes.append(Scene(photo.pixels(), photo.boxes_xyxy[mask], chosen, chosen, groups, name, split == "test"))
    return Boxed("Blood cells", kinds, tuple(scenes), nearest=10, scales=(1, 2))


def load_tree_tiles(most: int) -> Boxed:
    """Trees from above, and as many boxes of their sizes where there are none; at most `most` trees of each split."""
    scenes: list[Scene] = []
    for trees in load_trees():
        pixels, (width, height) = _pixels(trees.photograph), trees.photograph.size
        for top in range(0, height - TREES_PX + 1, TREES_PX):
            for left in range(0, width - TREES_PX + 1, TREES_PX):
                moved = trees.boxes_xyxy.float() - torch.tensor([left, top] * 2)
                centres = (moved[:, :2] + moved[:, 2:]) / 2
                own = ((centres >= 0) & (centres < TREES_PX)).all(1)
                inside = moved.clamp(0, TREES_PX)
                large = (inside[:, 2:] - inside[:, :2]).amin(1) >= LEAST_SIDE_PX
                boxes = inside[own & large]
                if not len(boxes):
                    continue
                seed = len(scenes)
                elsewhere = background(boxes, inside[large], (TREES_PX, TREES_PX), seed)
                kinds = torch.tensor([0] * len(boxes) + [1] * len(elsewhere))
                tile = pixels[:, top : top + TREES_PX, left : left + TREES_PX].contiguous()
                groups = torch.full_like(kinds, seed)
                both = torch.cat([boxes, elsewhere])
                scenes.append(Scene(tile, both, kinds, kinds, groups, trees.name, trees.name in _TEST_TREES))
    return Boxed("Trees", ("tree", "background"), _limited(scenes, most), nearest=10, scales=(1, 2, 4))


def load_nuclei(most: int) -> Boxed:
    """Nuclei of a micrograph, and boxes beside them; all eight ways up, at most `most` nuclei of each half.

    The left half is to learn from. What retrieval looks for is the same nucleus in the seven other ways up.
    """
    with zipfile.ZipFile(next(WHEELS.glob("stardist-*.whl"))) as wheel:
        levels, numbers = (
            torch.from_numpy(numpy.asarray(Image.open(wheel.open(f"stardist/data/images/{name}.tif"))).astype("int64"))
            for name in ("img2d", "mask2d")
        )
    grey = (levels * 255 / levels.max()).round().byte()
    scenes: list[Scene] = []
    middle = grey.shape[1] // 2
    for for_test, columns in ((False, slice(0, middle)), (True, slice(middle, None))):
        half, own = grey[:, columns], numbers[:, columns]
        cut = set(numbers[:, middle - 1].tolist()) & set(numbers[:, middle].tolist())
        whole = [number for number in own.unique().tolist() if number and number not in cut]
        masks = torch.stack([own == number for number in whole])
        boxes = boxes_of(masks)
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= LEAST_SIDE_PX
        chosen = large & at_most(torch.where(large, 0, 1), most, seed=0)
        masks, names, everyone = masks[chosen], torch.tensor(whole)[chosen], boxes_of(masks)
        beside, of_whom = displaced(boxes[chosen], everyone, (half.shape[0], half.shape[1]), seed=int(for_test))
        kinds = torch.tensor([0] * len(names) + [1] * len(beside))
        scene = Scene(
            half.expand(3, -1, -1),
            torch.cat([boxes[chosen], beside]),
            kinds,
            torch.cat([names, torch.full((len(beside),), -1)]),
            torch.cat([names, names[of_whom]]),
            "",
            for_test,
            torch.cat([over_boxes(masks), torch.ones(len(beside), MASK_PX, MASK_PX)]),
        )
        scenes += all_ways_up(scene)
    return Boxed("Nuclei", ("nucleus", "beside a nucleus"), tuple(scenes), nearest=7, scales=(1, 2, 4))


def _pixels(photograph: Image.Image) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(numpy.array(photograph)).permute(2, 0, 1)


def at_most(labels: Tensor, most: int, seed: int) -> Tensor:
    """bool [K]: at most `most` of each label, drawn."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        kept[order[labels[order] == label][:most]] = True
    return kept


def background(boxes_xyxy: Tensor, taken_xyxy: Tensor, size_hw: tuple[int, int], seed: int) -> Tensor:
    """Boxes of the sizes of `boxes_xyxy` in an image of `size_hw` that overlap neither each other nor `taken_xyxy`.

    Those for which no place is found are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    placed: list[Tensor] = []
    height, width = size_hw
    for size in boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]:
        room = torch.tensor([width, height]) - size
        corners = (torch.rand(_TRIES, 2, generator=generator) * room).floor()
        tried = torch.cat([corners, corners + size], 1)
        free = ~(shared_area(tried, torch.cat([taken_xyxy, *(one[None] for one in placed)])) > 0).any(1)
        if bool(free.any()):
            placed.append(tried[int(free.nonzero()[0])])
    return torch.stack(placed) if placed else boxes_xyxy.new_zeros(0, 4)


def displaced(boxes_xyxy: Tensor, everyone_xyxy: Tensor, size_hw: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Each box moved by half to all of its sides, IoU with every one below 0.3, within the image; and whose it was."""
    generator = torch.Generator().manual_seed(seed)
    found, whose = [], []
    limits = torch.tensor([size_hw[1], size_hw[0]] * 2)
    for index, box in enumerate(boxes_xyxy):
        size = box[2:] - box[:2]
        far = 2 * torch.rand(_TRIES, 2, generator=generator) - 1
        far = far[far.abs().amax(1) >= 0.5]
        tried = box + ((far * size).round()).repeat(1, 2)
        shared = shared_area(tried, everyone_xyxy)
        areas = (everyone_xyxy[:, 2:] - everyone_xyxy[:, :2]).prod(1)
        below = (shared / (size.prod() + areas - shared) < 0.3).all(1)
        usable = below & (tried >= 0).all(1) & (tried <= limits).all(1)
        if bool(usable.any()):
            found.append(tried[int(usable.nonzero()[0])])
            whose.append(index)
    return (torch.stack(found) if found else boxes_xyxy.new_zeros(0, 4)), torch.tensor(whose, dtype=torch.int64)


def shared_area(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """[K, L]: how much of each pair overlaps."""
    low = torch.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])
    high = torch.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    return (high - low).clamp(min=0).prod(2)


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes [K, 4] around bool masks [K, H, W]."""
    places = [mask.nonzero().flip(1) for mask in masks]
    return torch.stack([torch.cat([xy.amin(0), xy.amax(0) + 1]) for xy in places]).float()


def over_boxes(masks: Tensor) -> Tensor:
    """Masks [K, H, W] as [K, MASK_PX, MASK_PX], each over the smallest box around it."""
    rois = torch.cat([torch.arange(len(masks))[:, None].float(), boxes_of(masks)], 1)
    return roialign.roi_align(masks[:, None].float(), rois, MASK_PX, sampling_ratio=1, aligned=True)[:, 0]


def all_ways_up(scene: Scene) -> list[Scene]:
    """The scene turned by multiples of 90 degrees, and mirrored."""
    return [_turned(scene, turns, mirrored) for mirrored in (False, True) for turns in range(4)]


def _turned(scene: Scene, turns: int, mirrored: bool) -> Scene:
    image, masks, boxes = scene.image, scene.masks, scene.boxes_xyxy
    for _ in range(turns):  # anticlockwise: (x, y) becomes (y, width - x)
        x1, y1, x2, y2 = boxes.unbind(1)
        boxes = torch.stack([y1, image.shape[2] - x2, y2, image.shape[2] - x1], 1)
        image, masks = (None if one is None else one.rot90(1, (1, 2)) for one in (image, masks))
    if mirrored:
        x1, y1, x2, y2 = boxes.unbind(1)
        boxes = torch.stack([image.shape[2] - x2, y1, image.shape[2] - x1, y2], 1)
        image, masks = (None if one is None else one.flip(2) for one in (image, masks))
    name = f"{turns} quarter turns{', mirrored' if mirrored else ''}"
    return replace(scene, image=image.contiguous(), boxes_xyxy=boxes, masks=masks, photograph=name)


def _limited(scenes: Sequence[Scene], most: int) -> tuple[Scene, ...]:
    """At most `most` boxes of each kind of each split, drawn."""
    counts = [len(scene.kinds) for scene in scenes]
    labels = torch.cat([scene.kinds + 2 * scene.for_test for scene in scenes])
    found = []
    for scene, mask in zip(scenes, at_most(labels, most, seed=0).split(counts), strict=True):
        if bool(mask.any()):
            rows = {name: getattr(scene, name)[mask] for name in ("boxes_xyxy", "kinds", "things", "groups")}
            found.append(replace(scene, **rows))
    return tuple(found)
