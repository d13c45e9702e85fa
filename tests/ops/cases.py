"""The seeded configurations that all operator tests share, and the definition as plain Python loops."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

SCALES = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 14, 1 / 16, 1 / 32)
PLACES = ("inside", "partly outside", "outside", "degenerate", "inverted")


@dataclass(frozen=True)
class Case:
    """One call of `roi_align`; its boxes are exact in float32, so every type pools the same ones."""

    seed: int
    input_shape: tuple[int, int, int, int]
    boxes: tuple[tuple[float, ...], ...]  # image index, x1, y1, x2, y2
    output_size_hw: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool

    @property
    def options(self) -> tuple[int, int, float, int, bool]:
        """The arguments after the tensors, in the order of the registered operator."""
        return (*self.output_size_hw, *self.sampling)

    @property
    def sampling(self) -> tuple[float, int, bool]:
        return self.spatial_scale, self.sampling_ratio, self.aligned

    def features(self, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.input_shape, generator=generator).to(dtype)

    def rois(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 5).to(dtype)

    def grad(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """An upstream gradient for the pooled features."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (len(self.boxes), self.input_shape[1], *self.output_size_hw)
        return torch.randn(shape, generator=generator).to(dtype)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """Images, height and width: what the backward operator is told of the map."""
        images, _, height, width = self.input_shape
        return images, height, width

    def with_boxes(self, places: tuple[str, ...], count: int) -> Case:
        """The same call with other boxes, from these places."""
        rng = random.Random(self.seed)
        return replace(self, boxes=tuple(_row(rng, self, rng.choice(places)) for _ in range(count)))


def random_case(seed: int, sampling_ratio: int | None = None, aligned: bool | None = None, largest: int = 64) -> Case:
    """A configuration drawn with `seed`, on maps of up to `largest` cells a side."""
    rng = random.Random(seed)
    height, width = (rng.randint(1, rng.choice([1, 4, largest])) for _ in range(2))
    shape = rng.randint(1, 3), rng.randint(1, 5), height, width
    size_hw = rng.randint(1, 7), rng.randint(1, 7)
    case = Case(seed, shape, (), size_hw, rng.choice(SCALES), rng.randint(0, 3), rng.random() < 0.5)
    if sampling_ratio is not None:
        case = replace(case, sampling_ratio=sampling_ratio)
    if aligned is not None:
        case = replace(case, aligned=aligned)
    return case.with_boxes(PLACES, rng.randint(1, 8))


def random_cases(count: int, first_seed: int = 0, **fixed: int | bool) -> Iterator[Case]:
    for seed in range(first_seed, first_seed + count):
        yield random_case(seed, **fixed)


SAMPLED = ((2, True), (0, False), (1, True), (3, False), (0, True), (2, False))  # sampling_ratio and aligned
CHANNELS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 70, 130)
LARGE = (  # shapes and output sizes: boxes of hundreds of cells, also more of them than the kernels combine at once
    ((1, 1, 260, 300), (2, 3)),
    ((2, 2, 120, 300), (7, 20)),
    ((1, 2, 9, 2000), (12, 20)),
    ((1, 1, 700, 3), (40, 2)),
)


def kernel_cases() -> Iterator[Case]:
    """Calls that take every way through the kernels: all widths, numbers of channels and large boxes."""
    for width in range(1, 41):  # of the map; 7 and 11 have no factor in common with 40: sizes from 1 to 40, too
        shape = (width % 2 + 1, 3, 13 * width % 40 + 1, width)
        yield _kernel_case(width, shape, (11 * width % 40 + 1, 7 * width % 40 + 1), PLACES)
    for number in range(36):  # few columns of bins, up to 9 rows of them
        shape = (1, CHANNELS[number % len(CHANNELS)], 9, 21)
        yield _kernel_case(number, shape, (number // 4 + 1, (1, 2, 3, 8)[number % 4]), PLACES)
    for number, (shape, size_hw) in enumerate(LARGE):
        for sampled in range(3):
            yield _kernel_case(3 * number + sampled, shape, size_hw, ("inside", "partly outside", "around"))


def poisoned(tensor: Tensor, values: tuple[float, ...], seed: int) -> Tensor:
    """The tensor with some of its cells, at random, one of these values: few, more or many of them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    share = rng.choice([0.05, 0.01, 3 / max(tensor[0, 0].numel(), 1)])
    chosen = torch.tensor(values, dtype=tensor.dtype)[torch.randint(len(values), tensor.shape, generator=generator)]
    return torch.where(torch.rand(tensor.shape, generator=generator) < share, chosen, tensor)


def _kernel_case(number: int, shape: tuple[int, int, int, int], size_hw: tuple[int, int], places) -> Case:
    scale, (ratio, aligned) = SCALES[number % len(SCALES)], SAMPLED[number % len(SAMPLED)]
    case = Case(number, shape, (), size_hw, scale, ratio, aligned)
    rng = random.Random(number)
    return replace(case, boxes=tuple(_row(rng, case, place) for place in places))


def _row(rng: random.Random, case: Case, place: str) -> tuple[float, ...]:
    images, _, height, width = case.input_shape
    x1, x2 = _side(rng, width, place)
    y1, y2 = _side(rng, height, place)
    return (float(rng.randrange(images)), *(value / case.spatial_scale for value in (x1, y1, x2, y2)))


def _side(rng: random.Random, extent: int, place: str) -> tuple[float, float]:
    """Both ends of a box along one axis, in cells. Inverted boxes are so on both axes: torchvision knows no other."""
    low, high = sorted((rng.uniform(0, extent), rng.uniform(0, extent)))
    if place == "partly outside":
        return low - rng.uniform(0, extent + 2), high + rng.uniform(0, extent + 2)
    if place == "around":
        return -rng.uniform(0, 2), extent + rng.uniform(0, 2)
    if place == "outside":
        shift = rng.choice([-1, 1]) * (2 * extent + 3)
        return low + shift, high + shift
    if place == "degenerate":
        return low, low
    if place == "inverted":
        return high + 0.125, low
    return low, high


def axis_positions(low: float, high: float, pooled: int, scale: float, sampling_ratio: int, aligned: bool):
    """The samples' positions for each bin along one axis, from the definition."""
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    size = high * scale - offset - start
    size = size if aligned else max(size, 1.0)
    length = size / pooled
    grid = sampling_ratio if sampling_ratio > 0 else math.ceil(length)
    return [[start + p * length + (i + 0.5) * length / grid for i in range(grid)] for p in range(pooled)], grid


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top][left] * (left + 1 - x) + plane[top][right] * (x - left)
    lower = plane[bottom][left] * (left + 1 - x) + plane[bottom][right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def brute_force(features: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *sampling) -> Tensor:
    """The definition as plain loops in float64: slow, and independent of everything that is tested."""
    images = features.double().tolist()
    output = torch.zeros(len(rois), features.shape[1], pooled_height, pooled_width, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        rows, grid_h = axis_positions(y1, y2, pooled_height, *sampling)
        columns, grid_w = axis_positions(x1, x2, pooled_width, *sampling)
        for c, plane in enumerate(images[int(image)]):
            for p, ys in enumerate(rows):
                for q, xs in enumerate(columns):
                    total = sum(bilinear(plane, y, x) for y in ys for x in xs)
                    output[k, c, p, q] = total / max(grid_h * grid_w, 1)
    return output


def brute_force_coverage(rois: Tensor, height: int, width: int, pooled_height: int, pooled_width: int, *sampling):
    """The share of each RoI's samples that lie on the map, counted one by one."""
    shares = []
    for _, x1, y1, x2, y2 in rois.double().tolist():
        rows, _ = axis_positions(y1, y2, pooled_height, *sampling)
        columns, _ = axis_positions(x1, x2, pooled_width, *sampling)
        ys, xs = list(chain(*rows)), list(chain(*columns))
        on_map = sum(-1 <= y <= height and -1 <= x <= width for y in ys for x in xs)
        shares.append(on_map / max(len(ys) * len(xs), 1))
    return torch.tensor(shares, dtype=torch.float64)


def distance_to_kinks(rois: Tensor, pooled_height: int, pooled_width: int, *sampling) -> float:
    """How far the call is from where it has a kink: samples and adaptive bins at whole numbers, sizes at 1."""
    spatial_scale, _, aligned = sampling
    values = []
    for _, x1, y1, x2, y2 in rois.double().tolist():
        for low, high, pooled in ((y1, y2, pooled_height), (x1, x2, pooled_width)):
            bins, _ = axis_positions(low, high, pooled, *sampling)
            size = (high - low) * spatial_scale
            values += [*chain(*bins), size / pooled if aligned else max(size, 1.5) / pooled]
            values += [] if aligned else [size - 1.0 if abs(size - 1.0) < 0.5 else 0.5]
    return min(abs(value - round(value)) for value in values)
