"""Operators of which a bin is a product of weighted sums along each axis, in pure PyTorch: any number of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference.sampling import AxisRule, AxisSamples, Cells


class AxisTaps(NamedTuple):
    """The cells that the bins of k boxes read along one axis, all [k, pooled, taps]."""

    cell: Tensor  # int64
    weight: Tensor
    read: Tensor  # bool; elsewhere nothing is read


def roi_align_3d(
    planes: Tensor,
    boxes: Tensor,
    depth: int,
    height: int,
    width: int,
    scale_z: float,
    scale_y: float,
    scale_x: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """`roi_align` with another axis, of volumes [C, D, H, W]; boxes [k, 6] hold x1, y1, z1, x2, y2, z2."""
    axes, coverage = [], torch.ones_like(boxes[:, 0])
    scales, pooled = (scale_z, scale_y, scale_x), (depth, height, width)
    for column, scale, bins, extent in zip((2, 1, 0), scales, pooled, planes.shape[1:], strict=True):
        rule = AxisRule.of_scale(scale, sampling_ratio, aligned)
        samples = AxisSamples.of_boxes(boxes[:, column], boxes[:, 3 + column], bins, rule)
        cells = Cells.of_samples(samples, extent)
        weight = torch.cat([1 - cells.fraction, cells.fraction], 2) / samples.count[:, None, None]
        read = torch.cat([cells.read, cells.read & (cells.high > cells.low)], 2)
        axes.append(AxisTaps(torch.cat([cells.low, cells.high], 2), weight, read))
        coverage = coverage * cells.share(samples)
    return contract(planes, axes), coverage


def prroi_pool(planes: Tensor, boxes: Tensor, height: int, width: int, spatial_scale: float) -> tuple[Tensor, Tensor]:
    """A bin is the mean of the surface between the cells, which falls to zero within a cell beyond the border."""
    x1, y1, x2, y2 = (boxes * spatial_scale).unbind(1)
    along_y = _integrate(y1, y2, height, planes.shape[1])
    along_x = _integrate(x1, x2, width, planes.shape[2])
    return contract(planes, [along_y[0], along_x[0]]), along_y[1] * along_x[1]


def contract(planes: Tensor, axes: Sequence[AxisTaps]) -> Tensor:
    """[C, *cells] to [k, C, *bins]: each axis in turn becomes bins and goes to the end."""
    count, values = len(axes[0].cell), planes[:, None]
    for cell, weight, read in axes:
        rest = values.shape[3:]
        beside = (*cell.shape, *(1,) * len(rest))
        if values.shape[1] == 1:  # of all boxes yet
            cells = values[:, 0].index_select(1, cell.flatten())
        else:
            index = cell.view(1, count, cell.shape[1] * cell.shape[2], *(1,) * len(rest))
            cells = values.gather(2, index.expand(len(planes), -1, -1, *rest))
        cells = cells.view(len(planes), *cell.shape, *rest)
        cells = torch.where(read.view(beside), cells, 0.0)  # not times: a NaN that nothing reads stays out
        values = (cells * weight.view(beside)).sum(3).movedim(2, -1)
    return values.transpose(0, 1)


def _integrate(low: Tensor, high: Tensor, pooled: int, extent: int) -> tuple[AxisTaps, Tensor]:
    """The taps of each bin, and the share [k] of the bins' length that is on the map; sides in cells.

    Between two cells the surface is straight, so that its integral there is the length times the value in the middle.
    Bins are cut into such pieces.
    """
    length = torch.where(high > low, high - low, 0.0) / pooled
    number = torch.arange(pooled + 1, dtype=torch.float64, device=low.device)
    edges = low.double()[:, None] + number * length.double()[:, None]
    on_map = edges.clamp(min=-1.0, max=float(extent))
    first, last = on_map[:, :-1, None], on_map[:, 1:, None]
    cell = first.detach().floor()
    count = int((last.detach().ceil() - cell).max().clamp(min=0)) if first.numel() else 0
    piece = cell + torch.arange(count, dtype=torch.float64, device=low.device)
    begin, end = torch.where(piece > first, piece, first), torch.where(piece + 1 < last, piece + 1, last)
    middle, inside = Cells.falling_to_zero((begin + end) / 2, extent), end > begin
    size = (edges[:, 1:] - edges[:, :-1])[..., None]
    share = torch.where(inside, end - begin, 0.0) / torch.where(size > 0, size, 1.0)
    cells = torch.cat([middle.low, middle.high], 2)
    weight = torch.cat([(1 - middle.fraction) * share, middle.fraction * share], 2)
    read = torch.cat([inside, inside], 2) & (cells >= 0) & (cells < extent)
    whole = edges[:, -1] - edges[:, 0]
    covered = (on_map[:, -1] - on_map[:, 0]) / torch.where(whole > 0, whole, 1.0)
    return AxisTaps(cells.clamp(0, extent - 1), weight.to(low.dtype), read), covered.to(low.dtype)
