"""What the kernels of rotated, masked and largest RoIAlign have to do right on a GPU, in the manner of `checks.py`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from tests.ops import tolerances
from tests.ops.triton_calls import results
from torch import Tensor

from roialign.ops.operators import OPERATORS
from roialign.ops.triton import functions

from . import checks
from .checks import DTYPES, HEIGHT, INF, LAYOUTS, NAN, SCALE, WIDTH, reference

_op: Any = torch.ops.roialign
CHANNELS, BINS, COUNT = 70, (7, 5), 40
OPERATORS_OF_SAMPLES = ("roi_align_rotated", "roi_align_max", "masked_roi_align")
BAD_COLUMNS = (NAN, INF, -INF)
BAD_IMAGES = (2.0, -1.0, 0.5, NAN, 1e9)


@dataclass(frozen=True)
class Call:
    """The arguments of one operator and of its gradients."""

    name: str
    features: Tensor
    rois: Tensor
    beside: tuple[Tensor, ...]
    grad: Tensor
    options: tuple[Any, ...]

    def on(self, device: str) -> Call:
        beside = tuple(one.to(device) for one in self.beside)
        return Call(
            self.name, self.features.to(device), self.rois.to(device), beside, self.grad.to(device), self.options
        )

    def exact(self) -> Call:
        """The same in float64 on the CPU."""
        cpu = self.on("cpu")
        beside = tuple(one if one.dtype == torch.bool else one.double() for one in cpu.beside)
        return Call(self.name, cpu.features.double(), cpu.rois.double(), beside, cpu.grad.double(), self.options)

    def of(self, rows: Tensor) -> Call:
        """The same of some of the boxes."""
        beside = tuple(one[rows] for one in self.beside)
        return Call(self.name, self.features, self.rois[rows], beside, self.grad[rows], self.options)

    def results(self, of: Any) -> list[Tensor]:
        """Output, coverage, the gradient to the features, those to the rois and what belongs to them."""
        return results(of, self.name, self.features, [self.rois, *self.beside], self.grad, self.options)


def rotated(count: int, seed: int) -> Tensor:
    """Rows [K, 6] of two images: inside, partly and wholly off the map, empty, negative and at quarter turns."""
    rng = random.Random(seed)
    rows = [
        [0, 30, 20, 0, 40, 20],
        [1, 60, 50, -20, 10, 70],
        [1, 4000, 4000, 80, 80, 45],
        [1, 90.3, 60.2, 50.4, 30.6, 90],
    ]
    while len(rows) < count:
        place = rng.randrange(2), rng.uniform(0, 200), rng.uniform(0, 130)
        rows.append([*place, rng.uniform(0, 120), rng.uniform(0, 120), rng.uniform(-400, 400)])
    return torch.tensor(rows[:count], dtype=torch.float32)


def call_of(
    name: str, dtype: torch.dtype, layout: torch.memory_format, ratio: int, count: int = COUNT, side: int = 0
) -> Call:
    """A call on the CPU; its boxes are of many sizes, or, with `side`, all on one place of a map so high and wide."""
    generator = torch.Generator().manual_seed(ratio)
    size_hw = (side, side) if side else (HEIGHT, WIDTH)
    features = torch.randn(2, CHANNELS, *size_hw, generator=generator).to(dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    boxes = rotated(count, ratio) if name == "roi_align_rotated" else checks.boxes(count + 1, ratio)
    # not the huge box: float32 is too coarse there to tell on which side of a cell a sample lies
    rois = boxes if name == "roi_align_rotated" else boxes[[one for one in range(count + 1) if one != checks.HUGE_ROW]]
    if side:
        rois[:, 1:5] = torch.rand(count, 4, generator=generator) * 3 + torch.tensor([8.0, 8, 20, 20])
    flags: dict[str, tuple[bool, ...]] = {
        "roi_align_rotated": (ratio > 0, False),
        "roi_align_max": (ratio > 0,),
        "masked_roi_align": (ratio == 0,),
    }
    masks = torch.rand(count, 1, 8, 9, generator=generator)
    if ratio == 0:  # of the image, smooth, and in float32, where the boxes' gradient needs it
        masks = torch.nn.functional.interpolate(masks, (130, 200), mode="bilinear")
    masks = masks.squeeze(1).to(compute) if ratio == 0 else masks.squeeze(1) > 0.4
    beside = (masks,) if OPERATORS[name].beside else ()
    grad = torch.randn(count, CHANNELS, *BINS, generator=generator).to(dtype)
    options = (SCALE, ratio, ratio > 0, *flags[name])
    return Call(name, features.contiguous(memory_format=layout), rois.to(compute), beside, grad, options)


def compare(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        tolerances.assert_close(one.cpu(), other, other)


def agree(name: str, dtype: torch.dtype, device: str = "cuda") -> None:
    """Both layouts, read in place; adaptive sampling in float32 and bfloat16."""
    for ratio in {torch.float32: (2, 0), torch.bfloat16: (0,)}.get(dtype, (2,)):
        expected = call_of(name, dtype, LAYOUTS[0], ratio).exact().results(reference)
        for layout in LAYOUTS:
            call = call_of(name, dtype, layout, ratio).on(device)
            with mock.patch.object(functions, "COPY_PAYS", 0):
                found = call.results(_op)
                compare(found, expected)
                for _ in range(2):
                    assert all(map(torch.equal, call.results(_op), found)), "repeats differ"


def hostile(name: str, device: str = "cuda") -> None:
    """Boxes that cannot be sampled give NaN and no gradient, and change nothing for the others; nothing waits."""
    call = call_of(name, torch.float32, LAYOUTS[1], 0, 30)
    bad = list(_bad_rows(call.rois[4]))
    unusable = torch.arange(30) < len(bad)
    call.rois[: len(bad)] = torch.stack(bad)
    alone, call = call.of(~unusable).on(device), call.on(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        output, coverage, grad_input, *grads = call.results(_op)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = alone.results(_op)
    unusable = unusable.to(device)
    assert bool(output[unusable].isnan().all()), "a bad box gives numbers"
    assert bool(coverage[unusable].isnan().all()), "a bad box has a coverage"
    assert torch.equal(output[~unusable], expected[0]), "a bad box changes others"
    tolerances.assert_close(grad_input, expected[2], expected[2])
    assert not any(bool(one[unusable].any()) for one in grads), "a bad box has a gradient"


def _bad_rows(good: Tensor) -> Iterator[Tensor]:
    for value, column in [*((one, 0) for one in BAD_IMAGES), *((one, two) for one in BAD_COLUMNS for two in (2, 4))]:
        row = good.clone()
        row[column] = value
        yield row
    row = good.clone()
    row[3:5] = 1e12  # too large for adaptive sampling
    yield row


def crowded(name: str, device: str = "cuda") -> None:
    """Hundreds of boxes on one place of a small map: they are shared out."""
    call = call_of(name, torch.float32, LAYOUTS[0], 2, 300, side=16).on(device)
    found = call.results(_op)
    compare(found, call.exact().results(reference))
    assert torch.equal(call.results(_op)[2], found[2]), "repeats differ"


def checks_of_samples() -> dict[str, Callable[[], Any]]:
    """By name, in the order in which they are run."""
    found: dict[str, Callable[[], Any]] = {}
    for name in OPERATORS_OF_SAMPLES:
        for dtype in DTYPES:
            kind = str(dtype).removeprefix("torch.")
            found[f"{name} agrees in {kind}"] = lambda name=name, dtype=dtype: agree(name, dtype)
        found[f"{name}, hostile boxes"] = lambda name=name: hostile(name)
        found[f"{name}, crowded boxes"] = lambda name=name: crowded(name)
    return found
