"""The sampling rule of every RoI operator, along one axis, in pure PyTorch.

RoIAlign factors per axis: whether a sample is on the map, the clamping at the border and the bilinear
weight of a row do not depend on the column. This file is the specification of that rule;
`ops/cpu/sampling.h` states it again for the CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class AxisCells(NamedTuple):
    """How coordinates of boxes become cells of the map along one axis: cell = coordinate * scale - shift."""

    scale: float
    shift: float


class BoxRule(NamedTuple):
    """How boxes are read: along both axes, with how many samples, and whether widened to at least one cell."""

    rows: AxisCells
    columns: AxisCells
    sampling_ratio: int
    widen: bool

    @classmethod
    def of_scale(cls, spatial_scale: float, sampling_ratio: int, aligned: bool) -> BoxRule:
        """The rule that torchvision's arguments describe."""
        cells = AxisCells(spatial_scale, 0.5 if aligned else 0.0)
        return cls(cells, cells, sampling_ratio, not aligned)


def rules_of(cells: Sequence[float], sampling_ratio: int, widen: bool) -> list[BoxRule]:
    """The rule of each level, from four numbers: scale and shift of the rows, then of the columns."""
    return [
        BoxRule(AxisCells(*cells[i : i + 2]), AxisCells(*cells[i + 2 : i + 4]), sampling_ratio, widen)
        for i in range(0, len(cells), 4)
    ]


@dataclass(frozen=True)
class AxisSamples:
    """Where the samples of K RoIs lie along one axis, in cells of the feature map."""

    start: Tensor  # [K]
    bin: Tensor  # [K], length of one output bin; negative when the box is inverted
    grid: Tensor  # [K] int64, samples in each bin
    pooled: int  # output bins
    extent: int  # cells of the map

    @classmethod
    def of_boxes(
        cls,
        low: Tensor,
        high: Tensor,
        pooled: int,
        extent: int,
        cells: AxisCells,
        rule: BoxRule,
    ) -> AxisSamples:
        start = low * cells.scale - cells.shift
        size = (high * cells.scale - cells.shift) - start
        if rule.widen:
            size = size.clamp(min=1.0)
        bin_size = size / pooled
        grid = bin_size.detach().ceil().long()
        if rule.sampling_ratio > 0:
            grid = torch.full_like(grid, rule.sampling_ratio)
        return cls(start, bin_size, grid, pooled, extent)

    def __getitem__(self, members: Tensor) -> AxisSamples:
        return AxisSamples(self.start[members], self.bin[members], self.grid[members], self.pooled, self.extent)

    def positions(self, samples: Tensor) -> Tensor:
        """Positions [K, pooled, G] of the samples with these indices, [K, pooled, G] or [G].

        The order of these operations is torchvision's: whether a sample is on the map is decided on the
        rounded result, so another order would decide some samples differently.
        """
        bins = torch.arange(self.pooled, dtype=self.start.dtype, device=self.start.device)
        start, size = self.start[:, None, None], self.bin[:, None, None]
        grid = self.grid.clamp(min=1).to(size.dtype)[:, None, None]
        return start + bins[:, None] * size + (samples.to(size.dtype) + 0.5) * size / grid

    def shares(self, samples: Tensor) -> Tensor:
        """How far along the box the samples with these indices lie, as a share of its size."""
        bins = torch.arange(self.pooled, device=self.start.device)[:, None]
        grid = self.grid.clamp(min=1)[:, None, None]
        return (bins + (samples.to(self.start.dtype) + 0.5) / grid) / self.pooled

    def run_on_map(self) -> tuple[Tensor, Tensor]:
        """First and past-the-last index [K, pooled] of the samples of each bin that are on the map."""
        return self.run_between(-1, self.extent)

    def run_between(self, lowest: Tensor | float, highest: Tensor | float) -> tuple[Tensor, Tensor]:
        """First and past-the-last index [K, pooled] of the samples from `lowest` to `highest`.

        Positions are monotone in the sample index, rounding included, so those samples are one run.
        Bisection finds it: a box of millions of cells costs no more than its samples on the map.
        """
        ascending = (self.bin >= 0)[:, None, None]

        def reached(position: Tensor) -> Tensor:
            return torch.where(ascending, position >= lowest, position <= highest)

        def passed(position: Tensor) -> Tensor:
            return torch.where(ascending, position > highest, position < lowest)

        return self._first_where(reached), self._first_where(passed)

    @torch.no_grad()
    def _first_where(self, holds: Callable[[Tensor], Tensor]) -> Tensor:
        low = self.grid.new_zeros(self.grid.shape[0], self.pooled, 1)
        high = low + self.grid.clamp(min=0)[:, None, None]
        longest = int(self.grid.max()) if self.grid.numel() else 0
        for _ in range(max(longest, 1).bit_length()):
            middle = (low + high) // 2
            searching, found = low < high, holds(self.positions(middle))
            high = torch.where(searching & found, middle, high)
            low = torch.where(searching & ~found, middle + 1, low)
        return low.squeeze(2)


def is_on_map(position: Tensor, extent: int) -> Tensor:
    """The closed interval [-1, extent] is on the map."""
    return (position >= -1) & (position <= extent)


@dataclass(frozen=True)
class Cells:
    """The two cells that samples read along one axis, of any shape."""

    low: Tensor  # int64
    high: Tensor  # int64
    fraction: Tensor  # weight of `high`; differentiable to the positions
    free: Tensor  # bool, whether moving the sample moves the fraction: not clamped to the border

    @classmethod
    def at(cls, position: Tensor, on_map: Tensor, extent: int) -> Cells:
        """Outside [0, extent - 1] the border cell is read; where not `on_map`, whatever lies within bounds."""
        inside = torch.where(on_map, position, 0.0).clamp(min=0.0)
        low = inside.detach().long().clamp(max=extent - 1)
        between = low < extent - 1
        fraction = torch.where(between, inside - low, 0.0)
        return cls(low, (low + 1).clamp(max=extent - 1), fraction, on_map & between & (position > 0))

    def __getitem__(self, index: Any) -> Cells:
        return Cells(self.low[index], self.high[index], self.fraction[index], self.free[index])

    @classmethod
    def falling_to_zero(cls, position: Tensor, extent: int) -> Cells:
        """Those of the surface that falls to zero within one cell beyond the border cells.

        It is that of a map with a ring of zeros around it, whose cells -1 and `extent` are none of the map's.
        """
        ringed = cls.at(position + 1.0, torch.ones_like(position, dtype=torch.bool), extent + 2)
        return cls(ringed.low - 1, ringed.high - 1, ringed.fraction, ringed.free)


def corners(rows: Cells, columns: Cells) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and weight of the four cells that samples read, where rows and columns broadcast."""
    ly, lx = rows.fraction, columns.fraction
    hy, hx = 1 - ly, 1 - lx
    return [
        (rows.low, columns.low, hy * hx),
        (rows.low, columns.high, hy * lx),
        (rows.high, columns.low, ly * hx),
        (rows.high, columns.high, ly * lx),
    ]


@dataclass(frozen=True)
class Bilinear:
    """The cells that the samples of one axis read, all [K, pooled, G]."""

    index: Tensor  # int64, which samples of the bin these are
    on_map: Tensor  # bool; elsewhere nothing is read
    cells: Cells

    @classmethod
    def of_samples(cls, samples: AxisSamples) -> Bilinear:
        """The closed interval [-1, extent] is on the map; outside [0, extent - 1] the border cell is read."""
        first, last = samples.run_on_map()
        run = last - first
        steps = torch.arange(int(run.max()) if run.numel() else 0, device=run.device)
        on_map = steps < run[:, :, None]
        index = first[:, :, None] + steps
        cells = Cells.at(samples.positions(index), on_map, samples.extent)
        return cls(index, on_map, cells)

    def share(self, samples: AxisSamples) -> Tensor:
        """Share [K] of the axis's samples that are on the map."""
        total = (samples.grid * samples.pooled).clamp(min=1)
        return self.on_map.sum((1, 2)).to(samples.start.dtype) / total

    def differentiate(
        self, grad_fraction: Tensor, samples: AxisSamples, scale: float, widen: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients [K] with respect to the low and the high side of the boxes.

        Zero where a sample is off the map or clamped to its border, and where the size is clamped to a cell.
        """
        grad_position = torch.where(self.cells.free, grad_fraction, 0.0)
        grad_start = grad_position.sum((1, 2))
        grad_size = (grad_position * samples.shares(self.index)).sum((1, 2))
        if widen:
            grad_size = torch.where(samples.bin * samples.pooled > 1, grad_size, 0.0)
        return (grad_start - grad_size) * scale, grad_size * scale


@dataclass(frozen=True)
class AxisBins:
    """Where the bins of K RoIs lie along one axis, for operators that integrate over them, in cells of the map."""

    start: Tensor  # [K]
    bin: Tensor  # [K], length of one output bin; zero when the box is empty or inverted
    pooled: int  # output bins
    extent: int  # cells of the map

    @classmethod
    def of_boxes(cls, low: Tensor, high: Tensor, pooled: int, extent: int, scale: float) -> AxisBins:
        start = low * scale
        return cls(start, (high * scale - start).clamp(min=0.0) / pooled, pooled, extent)

    def edges(self) -> Tensor:
        """Where bins begin and end, float64 [K, pooled + 1]."""
        number = torch.arange(self.pooled + 1, dtype=torch.float64, device=self.start.device)
        return self.start.double()[:, None] + number * self.bin.double()[:, None]

    def integrate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which cells each bin reads, with which weights, and whether: all [K, pooled, taps].

        Between two cells the surface is straight, so that its integral there is the length times the value in the
        middle. Bins are cut into such pieces.
        """
        edges = self.edges()
        size = edges[:, 1:] - edges[:, :-1]
        first, last = self._on_map(edges)
        cell = first.detach().floor()
        count = (last.detach().ceil() - cell).max().clamp(min=0) if first.numel() else 0
        step = torch.arange(int(count), dtype=torch.float64, device=first.device)
        low = torch.maximum(first[..., None], cell[..., None] + step)
        high = torch.minimum(last[..., None], cell[..., None] + step + 1)
        length = high - low
        middle = Cells.falling_to_zero(low + length / 2, self.extent)
        left, right, fraction = middle.low, middle.high, middle.fraction
        share = length / torch.where(size > 0, size, 1.0)[..., None]
        inside = length > 0
        cells = torch.cat([left, right], 2)
        weight = torch.cat([(1 - fraction) * share, fraction * share], 2)
        read = torch.cat([inside & (left >= 0), inside & (right < self.extent)], 2)
        return cells.clamp(0, self.extent - 1), weight.to(self.start.dtype), read

    def share(self) -> Tensor:
        """Share [K] of the bins' length that is on the map."""
        outer = self.edges()[:, [0, -1]]
        first, last = self._on_map(outer)
        size = outer[:, 1] - outer[:, 0]
        return ((last - first)[:, 0] / torch.where(size > 0, size, 1.0)).to(self.start.dtype)

    def differentiate(self, cell: Tensor, weight: Tensor, read: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [K] with respect to the low and the high side of the boxes, in cells.

        A bin's mean changes with its edges by how far the surface there is from the mean. What the surface is there
        is taken from the gradient to the cells' weights.
        """
        edges = self.edges()
        of_cells = grad_weight.new_zeros(*cell.shape[:2], self.extent + 2, dtype=torch.float64)
        unread = torch.full_like(cell, self.extent + 1)  # of the ring, which stays zero
        of_cells.scatter_(2, torch.where(read, cell + 1, unread), torch.where(read, grad_weight, 0.0).double())
        mean = torch.where(read, weight * grad_weight, 0.0).double().sum(2)
        size = edges[:, 1:] - edges[:, :-1]
        size = torch.where(size > 0, size, torch.inf)
        by_begin = (mean - self._surface_at(edges[:, :-1], of_cells)) / size
        by_end = (self._surface_at(edges[:, 1:], of_cells) - mean) / size
        number = torch.arange(self.pooled, device=cell.device)
        grad_size = (by_begin * number + by_end * (number + 1)).sum(1) / self.pooled
        grad_start = (by_begin + by_end).sum(1)
        return (grad_start - grad_size).to(self.start.dtype), grad_size.to(self.start.dtype)

    def _on_map(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and end of the part of each bin that is on the map; the end is first where none is."""
        return edges[:, :-1].clamp(min=-1.0, max=float(self.extent)), edges[:, 1:].clamp(-1.0, float(self.extent))

    def _surface_at(self, edges: Tensor, of_cells: Tensor) -> Tensor:
        inside = (edges > -1) & (edges < self.extent)
        cells = Cells.falling_to_zero(torch.where(inside, edges, 0.0), self.extent)
        low, high = (of_cells.gather(2, (side + 1)[..., None])[..., 0] for side in (cells.low, cells.high))
        return torch.where(inside, low.lerp(high, cells.fraction), 0.0)
