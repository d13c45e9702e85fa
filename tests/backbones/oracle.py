"""What a cell of a backbone's output sees, by brute force: pixels are spoilt and the real module is run.

A pixel (all its channels) becomes NaN; the cells of an output that become NaN depend on it. NaN passes through
convolution, linear layers, normalization, activations, pooling, attention and addition, and no further than it should
(test_against_brute_force.py holds that for the operators that could do otherwise). It over-reports where a tap's
weight is exactly zero, for 0 * NaN is NaN: bilinear interpolation reads such a tap at the border and where it lands on
a cell's centre. `probe="difference"` serves there: the pixel is moved far up and far down, in float64, and cells that
differ in any bit depend on it; a cell may be missed only where every path to it is cut by an activation or lost in a
maximum, for both signs.

Nothing here knows how a layer moves the grid. Spoiling whole rows, then whole columns (`by="lines"`), gives each
cell's first and last row and column without the assumption that what it sees is a rectangle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

Maps = Callable[[Any], Mapping[str, Tensor]]
"""From a module's output to its maps [N, C, H, W], by name."""


@dataclass(frozen=True)
class Seen:
    """The first and the last pixel that each cell of one output depends on, clipped to the image: int64 [2, h, w].

    Index 0 is y, 1 is x. A cell that depends on no pixel has first = 0 and last = -1.
    """

    first_yx: Tensor
    last_yx: Tensor
    image_hw: tuple[int, int]

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.first_yx.shape[1], self.first_yx.shape[2]

    def is_whole_image(self) -> bool:
        """Whether every cell sees all that any cell sees, from the image's first pixel on."""
        return bool((self.first_yx == 0).all()) and len(self.last_yx.flatten(1).unique(dim=1)[0]) == 1

    def grid(self) -> Grid:
        """Stride, centre of cell 0 and receptive field of each axis that has enough unclipped cells (else None)."""
        return Grid(*(self._fit(axis) for axis in range(2)))

    def _fit(self, axis: int) -> AxisGrid | None:
        first = _alike_along_the_other_axis(self.first_yx[axis], axis)
        last = _alike_along_the_other_axis(self.last_yx[axis], axis)
        # Cells that reach as far as any cell does may be clipped, and so may cells beyond them: dilated taps step over
        # the border. Where a map is cut, the image's last pixels are in no cell.
        inner = max(cell for cell, pixel in enumerate(first) if pixel == min(first))
        outer = last.index(max(last))
        starts = {cell: pixel for cell, pixel in enumerate(first) if cell > inner}
        ends = {cell: pixel for cell, pixel in enumerate(last) if cell < outer and pixel >= 0}
        start, end = _line(starts), _line(ends)
        if start is None or end is None:
            return None
        assert start[0] == end[0], f"first and last pixels have different strides: {start[0]} and {end[0]}"
        return AxisGrid(start[0], (start[1] + end[1] + 1) / 2, end[1] - start[1] + 1)


@dataclass(frozen=True)
class AxisGrid:
    """One axis, exactly: pixels between neighbouring cells, centre of cell 0, pixels that a cell sees.

    Where cells see different numbers of pixels (upsampled maps) centre and size are means over a period.
    """

    stride: Fraction
    offset: Fraction
    size: Fraction


@dataclass(frozen=True)
class Grid:
    y: AxisGrid | None
    x: AxisGrid | None


def seen(
    module: nn.Module,
    image_hw: tuple[int, int],
    maps: Maps,
    *,
    channels: int = 3,
    by: Literal["lines", "pixels"] = "lines",
    probe: Literal["nan", "difference"] = "nan",
) -> dict[str, Seen]:
    """What each cell of each output depends on, in eval mode; pixels one at a time, or a row or column at a time."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            spoilt = _spoilt_by_nan if probe == "nan" else _spoilt_by_difference
            run = spoilt(module, image_hw, channels, maps)
            return _by_pixels(run, image_hw) if by == "pixels" else _by_lines(run, image_hw)
    finally:
        module.train(was_training)


_Run = Callable[[Tensor], dict[str, Tensor]]
"""From masks of pixels [b, H, W] to the cells that depend on any pixel of the mask [b, h, w]."""


def _spoilt_by_nan(module: nn.Module, image_hw: tuple[int, int], channels: int, maps: Maps) -> _Run:
    image = torch.rand(1, channels, *image_hw, generator=torch.Generator().manual_seed(0))
    for name, value in maps(module(image)).items():
        assert value.isfinite().all(), f"{name} is not finite without NaN in the image"

    def run(masks: Tensor) -> dict[str, Tensor]:
        images = image.masked_fill(masks[:, None], torch.nan)
        return {name: value.isnan().any(1) for name, value in maps(module(images)).items()}

    return run


def _spoilt_by_difference(module: nn.Module, image_hw: tuple[int, int], channels: int, maps: Maps) -> _Run:
    module = copy.deepcopy(module).double()
    image = torch.rand(1, channels, *image_hw, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(masks: Tensor) -> dict[str, Tensor]:
        # One batch, so that every image is summed in the same order.
        far = [image.expand(len(masks), -1, -1, -1) + sign * 1e4 * masks[:, None] for sign in (0, 1, -1)]
        found = {}
        for name, value in maps(module(torch.cat(far))).items():
            still, up, down = value.chunk(3)
            found[name] = ((up != still) | (down != still)).any(1)
        return found

    return run


def _by_lines(run: _Run, image_hw: tuple[int, int]) -> dict[str, Seen]:
    height, width = image_hw
    rows = torch.eye(height, dtype=torch.bool)[:, :, None].expand(-1, -1, width)
    columns = torch.eye(width, dtype=torch.bool)[:, None, :].expand(-1, height, -1)
    by_row, by_column = _in_batches(run, rows), _in_batches(run, columns)
    return {name: _bounds(by_row[name], by_column[name], image_hw) for name in by_row}


def _by_pixels(run: _Run, image_hw: tuple[int, int]) -> dict[str, Seen]:
    height, width = image_hw
    masks = torch.eye(height * width, dtype=torch.bool).view(-1, height, width)
    by_pixel = {name: cells.view(height, width, *cells.shape[1:]) for name, cells in _in_batches(run, masks).items()}
    return {name: _bounds(cells.any(1), cells.any(0), image_hw) for name, cells in by_pixel.items()}


def _in_batches(run: _Run, masks: Tensor, pixels: int = 1 << 18) -> dict[str, Tensor]:
    batch = max(1, pixels // masks[0].numel())
    parts = [run(masks[start : start + batch]) for start in range(0, len(masks), batch)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _bounds(by_row: Tensor, by_column: Tensor, image_hw: tuple[int, int]) -> Seen:
    first, last = [], []
    for length, cells in zip(image_hw, (by_row, by_column), strict=True):
        index = torch.arange(length)[:, None, None]
        last.append(torch.where(cells, index, -1).amax(0))
        first.append(torch.where(cells, index, length).amin(0) * (last[-1] >= 0))
    return Seen(torch.stack(first), torch.stack(last), image_hw)


def _alike_along_the_other_axis(pixels: Tensor, axis: int) -> list[int]:
    lines = pixels.movedim(axis, 0)
    assert (lines == lines[:, :1]).all(), "what a cell sees along one axis depends on where it lies along the other"
    values: list[int] = lines[:, 0].tolist()
    return values


def _line(pixel_of_cell: Mapping[int, int]) -> tuple[Fraction, Fraction] | None:
    """Slope and value at cell 0 of the line through cells one period apart, averaged over a period's cells."""
    cells = sorted(pixel_of_cell)
    for period in range(1, len(cells) // 2 + 1):
        pairs = [(cell, cell + period) for cell in cells if cell + period in pixel_of_cell]
        steps = {pixel_of_cell[later] - pixel_of_cell[cell] for cell, later in pairs}
        if len(steps) == 1 and len(pairs) >= period:
            slope = Fraction(steps.pop(), period)
            at_zero = [pixel_of_cell[cell] - slope * cell for cell in cells[:period]]
            if sorted(at_zero) != sorted(pixel_of_cell[cell] - slope * cell for cell in cells[-period:]):
                continue
            return slope, sum(at_zero, Fraction(0)) / period
    return None
