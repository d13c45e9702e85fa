"""Calls of `roi_align_rotated`, and what they give by the definition, in plain loops."""

import math
import random
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from .cases import bilinear

PLACES = ("inside", "around", "outside", "degenerate", "negative", "thin")
ANGLES = (0.0, 90.0, 180.0, 270.0, -90.0, 360.0, 45.0)


@dataclass(frozen=True)
class Rotated:
    """One call; boxes hold image index, centre x, centre y, width, height, angle."""

    seed: int
    shape: tuple[int, int, int, int]
    boxes: tuple[tuple[float, ...], ...]
    size_hw: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool
    clockwise: bool
    radians: bool

    @property
    def sampling(self):
        return self.spatial_scale, self.sampling_ratio, self.aligned, self.clockwise, self.radians

    def features(self, dtype=torch.float64) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed)).to(dtype)

    def rois(self, dtype=torch.float64) -> Tensor:
        return torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 6).to(dtype)

    def grad(self, dtype=torch.float64) -> Tensor:
        shape = (len(self.boxes), self.shape[1], *self.size_hw)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + 1)).to(dtype)


def random_case(seed: int, largest: int = 9, places=PLACES, channels: int = 3) -> Rotated:
    rng = random.Random(seed)
    height, width = (rng.randint(1, rng.choice([1, 4, largest])) for _ in range(2))
    scale = rng.choice([1.0, 0.5, 1 / 14, 1 / 16])
    mmcv = rng.random() < 0.5
    shape = rng.randint(1, 2), rng.randint(1, channels), height, width
    boxes = []
    for _ in range(rng.randint(1, 5)):
        place = rng.choice(places)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0, width + 2), rng.uniform(0, height + 2)
        if place == "around":
            x, y, w, h = width / 2, height / 2, 2 * width + 3, 2 * height + 3
        elif place == "outside":
            x += rng.choice([-1, 1]) * (3 * (width + height) + 5)
        elif place == "degenerate":
            w = h = 0.0
        elif place == "negative":
            w, h = -w, -h
        elif place == "thin":
            w = 0.01
        angle = rng.choice([*ANGLES, rng.uniform(-400, 400)])
        cells = (x / scale, y / scale, w / scale, h / scale)
        boxes.append((float(rng.randrange(shape[0])), *cells, math.radians(angle) if mmcv else angle))
    options = (rng.random() < 0.5, rng.random() < 0.5, True) if mmcv else (True, False, False)
    size_hw = rng.randint(1, 4), rng.randint(1, 4)
    return Rotated(seed, shape, tuple(boxes), size_hw, scale, rng.randint(0, 3), *options)


def cos_sin(angle: float, radians: bool) -> tuple[float, float]:
    if not radians and angle % 90 == 0:
        return ((1, 0), (0, 1), (-1, 0), (0, -1))[int(angle // 90) % 4]
    theta = angle if radians else math.radians(angle)
    return math.cos(theta), math.sin(theta)


def positions(case: Rotated, roi: list[float]) -> list[list[list[tuple[float, float]]]]:
    """(y, x) of the samples of each bin, from the definition."""
    _, cx, cy, w, h, angle = roi
    shift = 0.5 if case.aligned else 0.0
    cos, sin = cos_sin(-angle if case.clockwise else angle, case.radians)
    cx, cy, w, h = (
        cx * case.spatial_scale - shift,
        cy * case.spatial_scale - shift,
        w * case.spatial_scale,
        h * case.spatial_scale,
    )
    if not case.aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    sides = []
    for size, bins in ((h, case.size_hw[0]), (w, case.size_hw[1])):
        length = size / bins
        grid = case.sampling_ratio if case.sampling_ratio > 0 else max(math.ceil(length), 0)
        sides.append([[-size / 2 + b * length + (i + 0.5) * length / grid for i in range(grid)] for b in range(bins)])
    return [
        [[(v * cos - u * sin + cy, v * sin + u * cos + cx) for v in rows for u in columns] for columns in sides[1]]
        for rows in sides[0]
    ]


def brute_force(case: Rotated, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    planes, (_, _, height, width) = features.tolist(), case.shape
    output = features.new_zeros(len(rois), case.shape[1], *case.size_hw)
    coverage = features.new_zeros(len(rois))
    for k, roi in enumerate(rois.tolist()):
        bins = positions(case, roi)
        points = list(chain(*chain(*bins)))
        inside = sum(-1 <= y <= height and -1 <= x <= width for y, x in points)
        coverage[k] = inside / max(len(points), 1)
        for p, row in enumerate(bins):
            for q, samples in enumerate(row):
                for c, plane in enumerate(planes[int(roi[0])]):
                    output[k, c, p, q] = sum(bilinear(plane, y, x) for y, x in samples) / max(len(samples), 1)
    return output, coverage


def all_results(
    case: Rotated, features: Tensor, rois: Tensor, grad: Tensor, backend=torch.ops.roialign
) -> list[Tensor]:
    """Output, coverage and both gradients."""
    output, coverage = backend.roi_align_rotated(features, rois, *case.size_hw, *case.sampling)
    size = (case.shape[0], *case.shape[2:])
    to_features = backend.roi_align_rotated_backward(grad, rois, *size, *case.sampling)
    to_boxes = backend.roi_align_rotated_backward_boxes(grad, features, rois, *case.sampling)
    return [output, coverage, to_features, to_boxes]
