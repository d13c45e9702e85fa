"""Photographs with what was found in them drawn in: `python -m examples.detection.pictures --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from .checkpoint import restore
from .data import Photo, Photos, read
from .evaluate import detections

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")
_LEAST_SCORE = 0.5


def draw(photo: Photo, found: dict[str, Tensor], classes: tuple[str, ...]) -> Image.Image:
    """What was found with a score of a half and more, a colour for each class; below it, the ground truth."""
    kept = found["scores"] >= _LEAST_SCORE
    pixels, labels = photo.pixels(), found["labels"][kept].tolist()
    colours = [_COLOURS[(label - 1) % len(_COLOURS)] for label in labels]
    if "masks" in found and labels:
        outlines = found["masks"][kept, 0] > 0.5
        pixels = draw_segmentation_masks(pixels, outlines, alpha=0.4, colors=colours)
    words = [
        f"{classes[label - 1]} {score:.2f}" for label, score in zip(labels, found["scores"][kept].tolist(), strict=True)
    ]
    above = _boxed(pixels, found["boxes"][kept], words, colours)
    marked = [_COLOURS[(label - 1) % len(_COLOURS)] for label in photo.labels.tolist()]
    below = _boxed(photo.pixels(), photo.boxes_xyxy, [classes[label - 1] for label in photo.labels.tolist()], marked)
    return Image.fromarray(torch.cat([above, below], 1).permute(1, 2, 0).numpy())


def save_pictures(model: nn.Module, photos: Photos, folder: Path, most: int = 8) -> None:
    """The first photographs, each as NAME.jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = Photos(photos.photos[:most], photos.classes)
    for photo, found in zip(shown, detections(model, shown), strict=True):
        draw(photo, found, photos.classes).save(folder / f"{photo.path.stem}.jpg", quality=90)


def _boxed(pixels: Tensor, boxes_xyxy: Tensor, words: list[str], colours: list[str]) -> Tensor:
    if not len(boxes_xyxy):
        return pixels
    return draw_bounding_boxes(pixels, boxes_xyxy, words, colors=colours, width=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder of VOC's or COCO's form")
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the training wrote")
    parser.add_argument("--split", default="test", help="which photographs (default: test)")
    parser.add_argument("--most", type=int, default=8, help="how many of them (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the pictures")
    options = parser.parse_args()
    model, classes = restore(options.checkpoint)
    save_pictures(model, read(options.data, options.split, classes), options.out, options.most)


if __name__ == "__main__":
    main()
