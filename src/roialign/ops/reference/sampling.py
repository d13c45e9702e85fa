"""The sampling rule of every RoI operator, along one axis, in pure PyTorch.

RoIAlign factors per axis: whether a sample is on the map, the clamping at the border and the bilinear weight of a
row do not depend on the column. This file is the specification of that rule; `ops/cpu/sampling.h` states it again for
the CPU kernels. Everything is differentiable to the boxes. A gradient is zero where a sample is off the map or clamped
to its border, and where the size is clamped to a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class AxisRule(NamedTuple):
    """How boxes are read along one axis: cell = coordinate * scale - shift."""

    scale: float
    shift: float
    sampling_ratio: int
    widen: bool  # to at least one cell

    @classmethod
    def of_scale(cls, spatial_scale: float, sampling_ratio: int, aligned: bool) -> AxisRule:
        """The rule that torchvision's arguments describe."""
        return cls(spatial_scale, 0.5 if aligned else 0.0, sampling_ratio, not aligned)


@dataclass(frozen=True)
class AxisSamples:
    """Where the samples of K RoIs lie along one axis, in cells of the feature map."""

    start: Tensor  # [K]
    bin: Tensor  # [K], length of one output bin; negative when the box is inverted
    grid: Tensor  # [K] int64, samples in each bin
    pooled: int  # output bins

    @classmethod
    def of_boxes(cls, low: Tensor, high: Tensor, pooled: int, rule: AxisRule) -> AxisSamples:
        start = low * rule.scale - rule.shift
        size = (high * rule.scale - rule.shift) - start
        if rule.widen:
            size = torch.where(size > 1.0, size, 1.0)
        bin_size = size / pooled
        grid = bin_size.detach().ceil().long()
        if rule.sampling_ratio > 0:
            grid = torch.full_like(grid, rule.sampling_ratio)
        return cls(start, bin_size, grid, pooled)

    def __getitem__(self, members: Any) -> AxisSamples:
        return AxisSamples(self.start[members], self.bin[members], self.grid[members], self.pooled)

    @property
    def count(self) -> Tensor:
        """Samples of each bin [K], at least 1, to divide by."""
        return self.grid.clamp(min=1).to(self.bin.dtype)

    def positions(self, samples: Tensor) -> Tensor:
        """Positions [K, pooled, G] of the samples with these indices, [K, pooled, G] or [G].

        The order of these operations is torchvision's: whether a sample is on the map is decided on the
        rounded result, so another order would decide some samples differently.
        """
        bins = torch.arange(self.pooled, dtype=self.start.dtype, device=self.start.device)
        start, size, grid = (one[:, None, None] for one in (self.start, self.bin, self.count))
        return start + bins[:, None] * size + (samples.to(size.dtype) + 0.5) * size / grid

    def indices_between(self, lowest: Tensor | float, highest: Tensor | float) -> tuple[Tensor, Tensor]:
        """The indices [K, pooled, G] of the samples from `lowest` to `highest`, and which of them are.

        Positions are monotone in the sample index, rounding included, so those samples are one run.
        Bisection finds it: a box of millions of cells costs no more than its samples on the map.
        """
        ascending = (self.bin >= 0)[:, None, None]
        first = self._first_where(lambda at: torch.where(ascending, at >= lowest, at <= highest))
        last = self._first_where(lambda at: torch.where(ascending, at > highest, at < lowest))
        run = last - first
        steps = torch.arange(max(int(run.max()), 0) if run.numel() else 0, device=run.device)
        return first[:, :, None] + steps, steps < run[:, :, None]

    @torch.no_grad()
    def _first_where(self, holds: Callable[[Tensor], Tensor]) -> Tensor:
        low = self.grid.new_zeros(self.grid.shape[0], self.pooled, 1)
        high = self.grid.clamp(min=0)[:, None, None].expand_as(low)
        while bool((low < high).any()):
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
    fraction: Tensor  # weight of `high`
    read: Tensor  # bool; elsewhere nothing is read, and the cells are whatever lies within bounds

    @classmethod
    def at(cls, position: Tensor, read: Tensor, extent: int) -> Cells:
        """Outside [0, extent - 1] the border cell is read."""
        inside = torch.where(read & (position > 0), position, 0.0)
        low = inside.detach().long().clamp(max=extent - 1)
        fraction = torch.where(low < extent - 1, inside - low, 0.0)
        return cls(low, (low + 1).clamp(max=extent - 1), fraction, read)

    @classmethod
    def of_samples(cls, samples: AxisSamples, extent: int) -> Cells:
        """Those of the samples on the map, [K, pooled, G]."""
        index, read = samples.indices_between(-1, extent)
        return cls.at(samples.positions(index), read, extent)

    @classmethod
    def falling_to_zero(cls, position: Tensor, extent: int) -> Cells:
        """Those of the surface that falls to zero within one cell beyond the border cells.

        It is that of a map with a ring of zeros around it, whose cells -1 and `extent` are none of the map's.
        """
        ringed = cls.at(position + 1.0, torch.ones_like(position, dtype=torch.bool), extent + 2)
        return cls(ringed.low - 1, ringed.high - 1, ringed.fraction, ringed.read)

    def __getitem__(self, index: Any) -> Cells:
        return Cells(self.low[index], self.high[index], self.fraction[index], self.read[index])

    def share(self, samples: AxisSamples) -> Tensor:
        """Share [K] of the axis's samples that are on the map."""
        total = (samples.grid * samples.pooled).clamp(min=1)
        return self.read.sum((1, 2)).to(samples.start.dtype) / total
