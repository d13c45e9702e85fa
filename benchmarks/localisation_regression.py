"""A linear regressor from the features of a displaced box to the tree's true box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .localisation_retrieval import pool
from .networks import Network
from .photographs import Trees, as_tensor

CHIP_PX, ENLARGED = 400, 1.6  # 640 px: the largest stride divides it
JITTERS = 6
SHIFT, LOG_SCALE = 0.25, 0.2  # of a displaced box, in sizes of the true one; uniform to both sides
FOLDS = 5
BINS = 3
RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # times the mean of the diagonal
LEAST_SIDE_PX = 12.0


@dataclass(frozen=True)
class Chip:
    """A piece of a tile, enlarged, and the boxes [K, 4] of the trees that lie in it, in its pixels."""

    tile: str
    image: Image.Image
    boxes_xyxy: Tensor


@dataclass(frozen=True)
class Regression:
    """The mean over the displaced boxes of one chip; distances of centres in pixels of the photograph."""

    stride: float
    offset: str
    chip: int
    boxes: int
    iou_before: float
    iou_after: float
    error_px_before: float
    error_px_after: float


def chips_of(tiles: Sequence[Trees]) -> list[Chip]:
    """The tiles cut into squares, those with at least 5 whole trees."""
    found = []
    for tile in tiles:
        width, height = tile.photograph.size
        for top in range(0, height - CHIP_PX + 1, CHIP_PX):
            for left in range(0, width - CHIP_PX + 1, CHIP_PX):
                boxes = (tile.boxes_xyxy - torch.tensor([left, top, left, top])) * ENLARGED
                side = round(CHIP_PX * ENLARGED)
                sizes = boxes[:, 2:] - boxes[:, :2]
                room = 32 + (SHIFT + LOG_SCALE) * sizes.amax(1)
                inside = (boxes.amin(1) > room) & (boxes.amax(1) < side - room)
                boxes = boxes[inside & (sizes.amin(1) > LEAST_SIDE_PX * ENLARGED)]
                if len(boxes) >= 5:
                    piece = tile.photograph.crop((left, top, left + CHIP_PX, top + CHIP_PX))
                    found.append(Chip(tile.name, piece.resize((side, side), Image.Resampling.BICUBIC), boxes))
    return found


def as_input(chip: Chip) -> Tensor:
    """[3, H, W] in [-1, 1]."""
    return (as_tensor(chip.image) - 0.5) / 0.5


def regress(
    network: Network,
    chips: Sequence[Chip],
    offsets: Mapping[str, Mapping[str, tuple[float, float]]],
    seed: int,
) -> Iterator[Regression]:
    """Each stride, offset and chip, predicted by a regressor that has not seen the chip; folds are of whole chips."""
    generator = torch.Generator().manual_seed(seed)
    maps = [network.maps_of(as_input(chip)[None]) for chip in chips]
    truths = [chip.boxes_xyxy.repeat_interleave(JITTERS, 0) for chip in chips]
    displaced = [_displaced(boxes, generator) for boxes in truths]
    targets = [_as_target(boxes, truth) for boxes, truth in zip(displaced, truths, strict=True)]
    fold_of = torch.randperm(len(chips), generator=generator) % FOLDS
    for level in network.grids:
        stride = float(level)
        for offset, by_level in offsets.items():
            print(f"regression at stride {level}, {offset} offset", flush=True)
            features = [
                pool(own[level], boxes, stride, by_level[level], BINS)
                for own, boxes in zip(maps, displaced, strict=True)
            ]
            predicted = _cross_validated(features, targets, fold_of)
            for index, prediction in enumerate(predicted):
                after = _apply(displaced[index], prediction)
                yield Regression(
                    stride,
                    offset,
                    index,
                    len(after),
                    _iou(displaced[index], truths[index]),
                    _iou(after, truths[index]),
                    _distance(displaced[index], truths[index]),
                    _distance(after, truths[index]),
                )


def _cross_validated(features: Sequence[Tensor], targets: Sequence[Tensor], fold_of: Tensor) -> list[Tensor]:
    """The prediction for each chip from the other folds, the ridge chosen on one of those."""
    every = torch.cat(list(features))
    mean, deviation = every.mean(0), every.std(0) + 1e-6
    scaled = [(own - mean) / deviation for own in features]
    chips = [[index for index, own in enumerate(fold_of.tolist()) if own == fold] for fold in range(FOLDS)]
    xs = [torch.cat([scaled[index] for index in group]) for group in chips]
    ys = [torch.cat([targets[index] for index in group]).float() for group in chips]
    sums = [((x.T @ x).double(), (x.T @ y).double()) for x, y in zip(xs, ys, strict=True)]
    predicted: list[Tensor] = [torch.empty(0)] * len(features)
    for fold in range(FOLDS):
        held = (fold + 1) % FOLDS
        train = [index for index in range(FOLDS) if index not in (fold, held)]
        losses = {ridge: float((xs[held] @ _fit(sums, train, ridge) - ys[held]).square().mean()) for ridge in RIDGES}
        weights = _fit(sums, [*train, held], min(losses, key=lambda ridge: losses[ridge]))
        for index in chips[fold]:
            predicted[index] = (scaled[index] @ weights).double()
    return predicted


def _fit(sums: Sequence[tuple[Tensor, Tensor]], folds: Sequence[int], ridge: float) -> Tensor:
    """The weights of a ridge regression; features and targets have a mean of about 0, so there is no intercept."""
    gram, moment = (torch.stack([sums[fold][part] for fold in folds]).sum(0) for part in (0, 1))
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()))
    return torch.linalg.solve(gram, moment).float()


def _displaced(boxes: Tensor, generator: torch.Generator) -> Tensor:
    centres, sizes = _centres_and_sizes(boxes)
    drawn = 2 * torch.rand(len(boxes), 4, generator=generator, dtype=torch.float64) - 1
    centres, sizes = centres + SHIFT * drawn[:, :2] * sizes, sizes * (LOG_SCALE * drawn[:, 2:]).exp()
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)


def _as_target(boxes: Tensor, truths: Tensor) -> Tensor:
    (centres, sizes), (true_centres, true_sizes) = _centres_and_sizes(boxes), _centres_and_sizes(truths)
    return torch.cat([(true_centres - centres) / sizes, (true_sizes / sizes).log()], dim=1)


def _apply(boxes: Tensor, target: Tensor) -> Tensor:
    centres, sizes = _centres_and_sizes(boxes)
    centres, sizes = centres + target[:, :2] * sizes, sizes * target[:, 2:].exp()
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def _iou(boxes: Tensor, truths: Tensor) -> float:
    low, high = torch.maximum(boxes[:, :2], truths[:, :2]), torch.minimum(boxes[:, 2:], truths[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, truths)]
    return float((shared / (areas[0] + areas[1] - shared)).mean())


def _distance(boxes: Tensor, truths: Tensor) -> float:
    (centres, _), (true_centres, _) = _centres_and_sizes(boxes), _centres_and_sizes(truths)
    return float((centres - true_centres).norm(dim=1).mean() / ENLARGED)
