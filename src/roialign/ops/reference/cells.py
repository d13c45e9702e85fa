"""Boxes rounded to whole cells of the map and cut into bins of whole cells, as roi_pool and ps_roi_pool have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_VALUES_AT_ONCE = 1 << 22


class Rounding(NamedTuple):
    """How boxes become cells."""

    scale: float  # cell = round(coordinate * scale), halves away from zero
    with_end: bool  # whether the cell that a box ends in is its own
    left_out: int  # rows at the bottom, and columns at the right, that no bin reads


@dataclass(frozen=True)
class AxisBins:
    """The bins of K RoIs along one axis: each reads the cells [first, last) of the map, which may be none."""

    first: Tensor  # [K, pooled] int64
    last: Tensor
    share: Tensor  # [K], of the box's cells that are on the map

    @classmethod
    def of_boxes(cls, low: Tensor, high: Tensor, pooled: int, extent: int, rounding: Rounding) -> AxisBins:
        """The order of the operations is torchvision's: the ends of bins are rounded as well."""
        start, end = (_round(side * rounding.scale) for side in (low, high))
        cells = (end - start + int(rounding.with_end)).clamp(min=1)
        length = cells.to(low.dtype) / pooled
        bins = torch.arange(pooled + 1, dtype=low.dtype, device=low.device)
        edges = bins * length[:, None]
        reach = extent - rounding.left_out
        first = (edges[:, :-1].floor().long() + start[:, None]).clamp(0, reach)
        last = (edges[:, 1:].ceil().long() + start[:, None]).clamp(0, reach)
        inside = ((start + cells).clamp(max=extent) - start.clamp(min=0)).clamp(min=0)
        return cls(first, last, inside.to(low.dtype) / cells)

    @property
    def counts(self) -> Tensor:
        return (self.last - self.first).clamp(min=0)

    def read(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """Cells [k, pooled, G] of some RoIs, and which of them are read."""
        counts = self.counts[members]
        steps = torch.arange(int(counts.max()) if counts.numel() else 0, device=counts.device)
        is_read = steps < counts[:, :, None]
        return torch.where(is_read, self.first[members][:, :, None] + steps, 0), is_read


class Chunk(NamedTuple):
    """Some RoIs of one image; cells broadcast to [k, ph, pw, gh, gw], in row-major order within a bin."""

    image: int
    members: Tensor  # [k], their rows in `rois`
    rows: Tensor
    columns: Tensor
    is_read: Tensor


class BoxBins(NamedTuple):
    """The bins of all RoIs on a map."""

    images: Tensor  # [K]
    rows: AxisBins
    columns: AxisBins

    @classmethod
    def of_rois(cls, rois: Tensor, size_hw: tuple[int, int], pooled_hw: tuple[int, int], rounding: Rounding) -> BoxBins:
        index, x1, y1, x2, y2 = rois.unbind(1)
        rows = AxisBins.of_boxes(y1, y2, pooled_hw[0], size_hw[0], rounding)
        columns = AxisBins.of_boxes(x1, x2, pooled_hw[1], size_hw[1], rounding)
        return cls(index.long(), rows, columns)

    @property
    def coverage(self) -> Tensor:
        """Share [K] of the cells of each box that are on the map."""
        return self.rows.share * self.columns.share

    @property
    def counts(self) -> Tensor:
        """Cells that each bin reads, [K, ph, pw]."""
        return self.rows.counts[:, :, None] * self.columns.counts[:, None]

    def chunks(self) -> Iterator[Chunk]:
        """All RoIs, cut into chunks that bound the memory."""
        for image in self.images.unique().tolist():
            members = (self.images == image).nonzero().flatten()
            largest = int(self.rows.counts.max()) * int(self.columns.counts.max())
            each = max(1, largest * self.rows.first.shape[1] * self.columns.first.shape[1])
            for some in members.split(max(1, _VALUES_AT_ONCE // each)):
                (rows, rows_read), (columns, columns_read) = self.rows.read(some), self.columns.read(some)
                is_read = rows_read[:, :, None, :, None] & columns_read[:, None, :, None, :]
                yield Chunk(image, some, rows[:, :, None, :, None], columns[:, None, :, None, :], is_read)


def _round(value: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero, as C has it."""
    whole = value.trunc()
    return (whole + torch.where((value - whole).abs() >= 0.5, value.sign(), 0.0)).long()
