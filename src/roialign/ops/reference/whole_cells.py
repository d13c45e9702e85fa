"""Boxes rounded to whole cells of the map and cut into bins of whole cells, as roi_pool and ps_roi_pool have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_LOWEST = torch.tensor(torch.finfo(torch.float32).min)


class Bins(NamedTuple):
    """The cells that the bins of k boxes read; rows and columns broadcast to [k, ph, pw, gy, gx], row by row."""

    rows: Tensor
    columns: Tensor
    read: Tensor
    coverage: Tensor  # [k], share of the cells of each box that are on the map

    @classmethod
    def of_boxes(
        cls,
        boxes: Tensor,
        size_hw: Sequence[int],
        pooled_hw: tuple[int, int],
        scale: float,
        *,
        with_end: bool,
        left_out: int = 0,
    ) -> Bins:
        """Of boxes [k, 4].

        `with_end` gives a box the cell that it ends in; no bin reads the last `left_out` rows and columns.
        """
        x1, y1, x2, y2 = (_round(side * scale) for side in boxes.detach().unbind(1))
        (rows, in_rows, of_y), (columns, in_columns, of_x) = (
            _axis(low, high + int(with_end), bins, extent, left_out, boxes.dtype)
            for low, high, bins, extent in zip((y1, x1), (y2, x2), pooled_hw, size_hw, strict=True)
        )
        read = in_rows[:, :, None, :, None] & in_columns[:, None, :, None, :]
        return cls(rows[:, :, None, :, None], columns[:, None, :, None, :], read, of_y * of_x)


def roi_pool(
    planes: Tensor, boxes: Tensor, height: int, width: int, spatial_scale: float, legacy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A bin is the largest of the cells that it reads, and 0 where it reads none; with which cell that is, int64.

    A NaN is larger than any number, as for `torch.max`. With `legacy` it is torchvision's rule to the last: a value
    counts only if it is larger than the most negative float32, which NaN and minus infinity are not; that number is the
    result where none is. Cells are row * W + column, the first of the largest in row-major order, or -1.
    """
    bins = Bins.of_boxes(boxes, planes.shape[1:], (height, width), spatial_scale, with_end=True)
    read = bins.read.flatten(3)
    if not read.numel():
        pooled = planes.new_zeros(len(boxes), len(planes), height, width)
        return pooled, bins.coverage, torch.full_like(pooled, -1, dtype=torch.int64)
    lowest = _LOWEST.to(planes.device, planes.dtype)
    cells = (bins.rows * planes.shape[2] + bins.columns).expand(bins.read.shape).flatten(3)
    values = planes.flatten(1)[:, cells]  # [C, k, ph, pw, cells of a bin]
    counted = read & (values > lowest) if legacy else read.expand_as(values)
    largest = torch.where(counted, values, -torch.inf).amax(-1, keepdim=True)  # NaN where any is
    is_largest = counted & ((values == largest) | (values.isnan() & largest.isnan()))
    first, found = is_largest.int().argmax(-1, keepdim=True), is_largest.any(-1)
    nothing = torch.where(read.any(-1), lowest, torch.zeros_like(lowest))
    pooled = torch.where(found, values.gather(-1, first)[..., 0], nothing)
    of_largest = torch.where(found, cells.expand_as(values).gather(-1, first)[..., 0], -1)
    return pooled.transpose(0, 1), bins.coverage, of_largest.transpose(0, 1)


def ps_roi_pool(
    planes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    with_last: bool,
    _with_last_in_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """A bin is the mean of the cells that it reads, in a channel of its own, and 0 where it reads none.

    Bin (p, q) of channel c of the output reads channel (c * height + p) * width + q of the features. Bins do not reach
    the last row and the last column of the map, as torchvision has it, unless `with_last`.
    """
    size_hw, left_out = planes.shape[1:], 0 if with_last else 1
    bins = Bins.of_boxes(boxes, size_hw, (height, width), spatial_scale, with_end=False, left_out=left_out)
    bin_of_plane = torch.arange(height * width, device=planes.device).view(height, width)[:, :, None, None]
    cells = (bin_of_plane * size_hw[0] + bins.rows) * size_hw[1] + bins.columns
    by_bin = planes.reshape(len(planes) // (height * width), height * width * size_hw[0] * size_hw[1])
    values = by_bin.gather(1, cells.reshape(1, -1).expand(len(by_bin), -1)).view(len(by_bin), *cells.shape)
    mean = torch.where(bins.read, values, 0.0).sum((-2, -1)) / bins.read.sum((-2, -1)).clamp(min=1)
    return mean.transpose(0, 1), bins.coverage


def _axis(
    start: Tensor, end: Tensor, pooled: int, extent: int, left_out: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells [k, pooled, G] of each bin, which of them are read, and the share [k] of the box's that is on the map.

    The order of the operations is torchvision's: the ends of bins are rounded as well.
    """
    cells = (end - start).clamp(min=1)
    edges = torch.arange(pooled + 1, dtype=dtype, device=start.device) * (cells.to(dtype) / pooled)[:, None]
    first = (edges[:, :-1].floor().long() + start[:, None]).clamp(0, extent - left_out)
    last = (edges[:, 1:].ceil().long() + start[:, None]).clamp(0, extent - left_out)
    counts = (last - first).clamp(min=0)
    steps = torch.arange(int(counts.max()) if counts.numel() else 0, device=counts.device)
    read = steps < counts[:, :, None]
    inside = ((start + cells).clamp(max=extent) - start.clamp(min=0)).clamp(min=0)
    return torch.where(read, first[:, :, None] + steps, 0), read, inside.to(dtype) / cells


def _round(value: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero, as C has it."""
    whole = value.trunc()
    return (whole + torch.where((value - whole).abs() >= 0.5, value.sign(), 0.0)).long()
