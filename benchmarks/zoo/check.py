"""Whether the cells of a model see what its grids say, by spoiling lines of the image and running the model.

A row or a column of the image becomes NaN, and the cells that become NaN depend on it. The lines are those where a
sample of cells begins and ends to see the image, and those just beyond; every cell of every map is looked at for each
of them. NaN also passes where a weight is zero, so where it goes too far the line is changed instead, in float64: what
a change reaches is seen for certain. Nothing here knows how a layer moves the grid.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from roialign.geometry import FeatureGrid

Maps = Callable[[Any], Mapping[str, Tensor]]
"""From a model's output to its maps [N, C, H, W], by name."""

Line = tuple[int, int]
"""Axis (0 for a row, 1 for a column) and number."""


@dataclass(frozen=True)
class Verdict:
    """right, wrong, or unchecked; and by what means, or what was found."""

    kind: Literal["right", "wrong", "unchecked"]
    detail: str


class TooSlowError(Exception):
    """A model that takes too long for so many passes."""


@dataclass(frozen=True)
class _Claim:
    """What a grid says along one axis: the first and the last pixel of cell i are first + i * stride and last + ..."""

    cells: int
    stride: float
    first: float
    last: float
    slack: float
    """Pixels by which branches of other offsets, or cells that lie unevenly, reach further."""
    size: int
    is_even: bool
    """Whether each cell sees as much; else the field is that of the cell that sees most, as in a pyramid."""

    @classmethod
    def of(cls, grid: FeatureGrid, axis: int, size: int, slack: float) -> _Claim | None:
        """The claim of a grid along an axis of an image of that size; None if it says nothing of what cells see."""
        if grid.structural_offset_yx is None or grid.receptive_field_hw is None or grid.offset_range_yx is None:
            return None
        offset, field = grid.structural_offset_yx[axis], grid.receptive_field_hw[axis]
        least, most = grid.offset_range_yx[axis]
        centre = None if grid.receptive_field_centre_yx is None else grid.receptive_field_centre_yx[axis]
        is_even, are_apart = centre is not None, most > least
        if centre is not None and are_apart:  # branches: their common field is centred elsewhere than the finest one
            offset, are_apart = centre, False
        first, slack = offset - field / 2, slack + (most - least if are_apart else 0)
        return cls(grid.size_hw[axis], grid.stride_yx[axis], first, first + field - 1, slack, size, is_even)

    def lines(self) -> list[int]:
        """Where cells in a quarter, in the middle, and at the ends begin and end to see the image, and beyond."""
        found: set[int] = set()
        for cell in sorted({0, self.cells // 4, self.cells // 2, self.cells - 1}):
            move = cell * self.stride
            found |= {math.floor(self.first - self.slack + move) - 1, math.ceil(self.first + 2 * self.slack + move)}
            found |= {math.floor(self.last - 2 * self.slack + move), math.ceil(self.last + self.slack + move) + 1}
        return sorted(line for line in found if 0 <= line < self.size)

    def outside(self, line: int) -> Tensor:
        """The cells that do not see it."""
        cells = torch.arange(self.cells, dtype=torch.float64) * self.stride
        before, after = self.first - self.slack + cells, self.last + self.slack + cells
        return (line < before - 1e-3) | (line > after + 1e-3)

    def at_the_end(self, line: int) -> Tensor:
        """The cells whose first or last pixel it is, or would be without slack; none where cells see unevenly."""
        cells = torch.arange(self.cells, dtype=torch.float64) * self.stride
        first = (self.first + 2 * self.slack + cells).ceil() if self.slack else self.first + cells
        last = (self.last - 2 * self.slack + cells).floor() if self.slack else self.last + cells
        is_one = ((first - line).abs() < 1e-3) | ((last - line).abs() < 1e-3)
        return is_one & (first <= last) & ~self.outside(line) & self.is_even


def check(
    model: nn.Module, maps: Maps, grids: Mapping[str, FeatureGrid], image: Tensor, seconds: float, slack: float = 0
) -> dict[str, str]:
    """What is wrong with the grids by more than so many pixels, by map; nothing if they are right.

    Raises:
        TooSlowError: where the passes would take longer than that.
    """
    size_hw = (image.shape[2], image.shape[3])
    claims = {
        (name, axis): claim
        for name, grid in grids.items()
        for axis in range(2)
        if (claim := _Claim.of(grid, axis, size_hw[axis], slack)) is not None
    }
    lines = sorted({(axis, line) for (_, axis), claim in claims.items() for line in claim.lines()})
    lines = _affordable(lines, model, image, seconds)
    too_far, too_short = _compared(claims, lines, _spoilt(model, maps, image, lines))
    wrong = {name: what for (name, _), what in too_short.items()}
    if too_far:
        changed = _changed(model, maps, image, lines)
        wrong |= {name: what for (name, _), what in _compared(claims, lines, changed)[0].items()}
    return wrong


def _affordable(lines: Sequence[Line], model: nn.Module, image: Tensor, seconds: float) -> list[Line]:
    begin = time.process_time()
    with torch.no_grad():
        model(image)
    passes = int(seconds / (time.process_time() - begin))
    if passes < 8:
        raise TooSlowError(f"a pass takes {seconds / (passes + 1):.0f} s or more")
    step = max(1, math.ceil(len(lines) / passes))
    return list(lines[::step])


def _spoilt(model: nn.Module, maps: Maps, image: Tensor, lines: Sequence[Line]) -> list[dict[str, Tensor]]:
    """For each line the cells [H, W] of each map that NaN in it reaches."""
    found = []
    for axis, line in lines:
        spoilt = image.clone()
        spoilt.select(2 + axis, line).fill_(math.nan)
        with torch.no_grad():
            found.append({name: one.isnan().any(1)[0] for name, one in maps(model(spoilt)).items()})
    return found


def _changed(model: nn.Module, maps: Maps, image: Tensor, lines: Sequence[Line]) -> list[dict[str, Tensor]]:
    """The same, of a change in float64."""
    model, image = copy.deepcopy(model).double(), image.double()
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    found = []
    with torch.no_grad():
        before = {name: one.clone() for name, one in maps(model(image)).items()}
        for axis, line in lines:
            changed = image.clone()
            changed.select(2 + axis, line).add_(100 * noise.select(2 + axis, line) - 50)
            after = maps(model(changed))
            found.append(
                {name: ((after[name] - one).abs() > 1e-9 * one.abs().max()).any(1)[0] for name, one in before.items()}
            )
    return found


_Wrong = dict[tuple[str, int], str]


def _compared(
    claims: Mapping[tuple[str, int], _Claim], lines: Sequence[Line], reached: Sequence[Mapping[str, Tensor]]
) -> tuple[_Wrong, _Wrong]:
    """Where lines reach cells that do not see them, and where they do not reach cells that do: the first of each."""
    too_far: _Wrong = {}
    too_short: _Wrong = {}
    for (axis, line), cells_by_map in zip(lines, reached, strict=True):
        for name, cells in cells_by_map.items():
            claim = claims.get((name, axis))
            if claim is None:
                continue
            some, every = cells.any(1 - axis), cells.all(1 - axis)
            word = ("row", "column")[axis]
            for wrong, at in ((too_far, some & claim.outside(line)), (too_short, ~every & claim.at_the_end(line))):
                if at.any() and (name, axis) not in wrong:
                    reaches = "reaches" if wrong is too_far else "does not reach"
                    wrong[name, axis] = (
                        f"{word} {line} of the image {reaches} {word} {int(at.long().argmax())} of {name}"
                    )
    return too_far, too_short


def answers(
    model: nn.Module, maps: Maps, grids: Mapping[str, FeatureGrid], image: Tensor
) -> dict[str, tuple[int, int, int]]:
    """Of each map at how many of nine cells a change in their middle is answered most by them; by others; by none.

    For models that mix the whole image and cannot be had without it: a cell answers more to its own place than others.
    A neighbour counts as the cell itself.
    """
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) * 20 - 10
    counts: dict[str, tuple[int, int, int]] = {}
    with torch.no_grad():
        before = {name: one.clone() for name, one in maps(model(image)).items()}
        for name, grid in grids.items():
            own = others = none = 0
            for cell in _nine(grid.size_hw):
                changed = image.clone()
                area = tuple(_around(grid, cell, axis, image.shape[2 + axis]) for axis in range(2))
                changed[:, :, area[0], area[1]] += noise[:, :, area[0], area[1]]
                answer = (maps(model(changed))[name] - before[name]).pow(2).sum(1)[0].sqrt()
                peak = divmod(int(answer.argmax()), answer.shape[1])
                if answer.max() < 1.5 * answer.median():
                    none += 1
                elif max(abs(a - b) for a, b in zip(peak, cell, strict=True)) <= 1:
                    own += 1
                else:
                    others += 1
            counts[name] = own, others, none
    return counts


def _nine(size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    rows, columns = (sorted({size // 6, size // 2, size - 1 - size // 6}) for size in size_hw)
    return [(row, column) for row in rows for column in columns]


def _around(grid: FeatureGrid, cell: tuple[int, int], axis: int, size: int) -> slice:
    offset = (grid.structural_offset_yx or grid.conventional_offset_yx)[axis]
    middle, half = offset + cell[axis] * grid.stride_yx[axis], grid.stride_yx[axis] / 2
    first = min(max(0, round(middle - half)), size - 1)
    return slice(first, min(size, max(first + 1, round(middle + half))))
