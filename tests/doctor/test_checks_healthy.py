"""No check finds anything in calls as detectors and extractors make them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import roialign

Call = tuple[Tensor, list[Tensor], int, float, int, bool]
Known = tuple[int, int]


def proposals(rng: random.Random, size_hw: Known, count: int, least: float = 4, most: float = 1e9) -> Tensor:
    """Boxes of all sizes between two limits, clipped to the image as a detector clips them."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    low, high = torch.tensor(least).log(), torch.tensor(min(most, 1.2 * max(size_hw))).log()
    sides = (low + torch.rand(count, 1, generator=generator) * (high - low)).exp()
    sides = sides * (torch.randn(count, 2, generator=generator) * 0.3).exp()
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 1).clamp(min=0)
    boxes = boxes.minimum(torch.tensor([width, height, width, height]))
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 1).all(1)]


def pyramid(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """Four levels, boxes by the FPN's rule, the image padded to a multiple of 32 as torchvision does."""
    size = (rng.randint(300, 1000), rng.randint(300, 1333))
    padded = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
    boxes = proposals(rng, size, 60)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    levels = (4 + (sides / 224 + 1e-6).log2().floor()).clamp(2, 5)
    for level, (output, aligned) in itertools.product(range(2, 6), ((7, False), (14, True))):
        chosen = boxes[levels == level]
        features = torch.randn(1, 4, padded[0] >> level, padded[1] >> level)
        yield (features, [chosen], output, 0.5**level, 2, aligned), padded


def single_map(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """One map of a ViT or of stage 4, adaptive sampling, few boxes or many, in square and oblong images."""
    stride = rng.choice([14, 16, 16, 8, 32])
    size = (rng.randint(224 // stride, 1000 // stride) * stride, rng.randint(224 // stride, 1000 // stride) * stride)
    size = (size[0], size[0]) if rng.random() < 0.5 else size
    features = torch.randn(1, 4, size[0] // stride, size[1] // stride)
    boxes = proposals(rng, size, rng.choice([1, 3, 40]), least=stride / 2)
    for ratio, aligned in itertools.product((-1, 2), (False, True)):
        yield (features, [boxes], 7, 1 / stride, ratio, aligned), size


def rounded_up(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """A map whose size was rounded up at each stage, and boxes that reach over the border."""
    size = (rng.randint(200, 900), rng.randint(200, 900))
    stride = rng.choice([8, 16, 32])
    features = torch.randn(1, 4, -(-size[0] // stride), -(-size[1] // stride))
    boxes = proposals(rng, size, 30, least=10)
    shift = torch.tensor([rng.uniform(-0.2, 0.2) * 20, rng.uniform(-0.2, 0.2) * 20] * 2)
    whole = torch.tensor([[0.0, 0.0, size[1], size[0]], [-20.0, -20.0, size[1] + 20.0, size[0] + 20.0]])
    yield (features, [torch.cat([boxes + shift, whole])], 7, 1 / stride, -1, True), size


def tiny_among_others(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """A third of the boxes are specks, the others are not."""
    size = (800, 1088)
    boxes = torch.cat([proposals(rng, size, 16, least=40), proposals(rng, size, 8, least=2, most=3)])
    yield (torch.randn(1, 4, 50, 68), [boxes], 7, 1 / 16, 2, rng.random() < 0.5), size


def batch_of_masks(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """Two images and one channel, boxes in cells of a mask."""
    size = (28, 56)
    boxes = [proposals(rng, size, 5, least=3), proposals(rng, size, 5, least=3)]
    yield (torch.rand(2, 1, *size), boxes, 14, 1.0, 2, True), size


def line_of_text(rng: random.Random) -> Iterator[tuple[Call, Known]]:
    """The map of a text line: 1 row, or far longer than high, one stride for both."""
    width = rng.randint(8, 20) * 32
    channels = rng.choice([64, 256])
    boxes = proposals(rng, (32, width), 6, least=8)
    yield (torch.randn(1, channels, 8, width // 4), [boxes], 2, 1 / 4, -1, True), (32, width)


@pytest.mark.parametrize(
    "kind",
    [pyramid, single_map, rounded_up, tiny_among_others, batch_of_masks, line_of_text],
)
def test_healthy_calls_have_no_finding(kind: Callable[[random.Random], Iterator[tuple[Call, Known]]]) -> None:
    rng, looked_at = random.Random(kind.__name__), 0
    for _ in range(40):
        for call, size in kind(rng):
            for known in (None, size):
                diagnosis = roialign.diagnose(*call, image_size=known)
                assert diagnosis.ok, (call[0].shape, call[1:], size, diagnosis.findings)
                looked_at += 1
    assert looked_at >= 80
