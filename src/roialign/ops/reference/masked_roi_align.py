"""RoIAlign under instance masks in pure PyTorch: the definition that the kernels are checked against."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference.bilinear import Corner, corners, total
from roialign.ops.reference.sampling import AxisRule, AxisSamples, Cells, is_on_map


def masked_roi_align(
    planes: Tensor,
    boxes: Tensor,
    masks: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    masks_in_image: bool,
) -> tuple[Tensor, Tensor]:
    """A bin is sum(w f) / sum(w) over its samples, where w is the mask there, and 0 where sum(w) is 0.

    `masks` [k, h, w] are bool or of the type of `boxes`. sum(w) factors into rows and columns of the mask, so samples
    off the map, which count with f = 0, need not be looked at one by one.
    """
    rule, masks = AxisRule.of_scale(spatial_scale, sampling_ratio, aligned), masks.to(boxes.dtype)
    x1, y1, x2, y2 = boxes.unbind(1)
    rows = _Axis.of(y1, y2, height, rule, (planes.shape[1], masks.shape[1]), masks_in_image)
    columns = _Axis.of(x1, x2, width, rule, (planes.shape[2], masks.shape[2]), masks_in_image)
    mean = torch.einsum("kpr,krc,kqc->kpq", rows.matrix, masks, columns.matrix)
    share = torch.where(mean == 0, 0.0, 1 / torch.where(mean == 0, 1.0, mean))
    share = share / (rows.samples.count * columns.samples.count)[:, None, None]
    of_mask = corners(rows.pixels[:, :, None, :, None], columns.pixels[:, None, :, None, :])
    weight = torch.stack([corner.weight * _read(masks, corner) for corner in of_mask]).sum(0) * share[..., None, None]
    cells_y, cells_x = rows.cells[:, :, None, :, None], columns.cells[:, None, :, None, :]
    if not weight.requires_grad:  # a sample of no weight reads nothing, so what is under it does not matter
        cells_y = replace(cells_y, read=cells_y.read & (weight != 0))
    coverage = rows.cells.share(rows.samples) * columns.cells.share(columns.samples)
    return total(planes, cells_y, cells_x, weight).transpose(0, 1), coverage


class _Axis(NamedTuple):
    """The samples of the boxes along one axis, on the map and on the masks."""

    samples: AxisSamples
    cells: Cells  # of the map, that the samples on it read
    pixels: Cells  # of the mask, that those samples read
    matrix: Tensor  # [k, bins, pixels], the mean of all samples on the mask

    @classmethod
    def of(
        cls, low: Tensor, high: Tensor, pooled: int, rule: AxisRule, extents: tuple[int, int], masks_in_image: bool
    ) -> _Axis:
        samples, (extent, pixels) = AxisSamples.of_boxes(low, high, pooled, rule), extents
        if masks_in_image:
            on_mask = replace(samples, start=low - 0.5, bin=samples.bin / rule.scale)
        else:  # whatever the box, its mask covers it
            on_mask = replace(samples, start=torch.full_like(low, -0.5), bin=torch.full_like(low, pixels / pooled))
        index, read = samples.indices_between(-1, extent)
        there = on_mask.positions(index)
        return cls(
            samples,
            Cells.at(samples.positions(index), read, extent),
            Cells.at(there, read & is_on_map(there, pixels), pixels),
            _mean(on_mask, pixels),
        )


def _mean(samples: AxisSamples, extent: int) -> Tensor:
    cells = Cells.of_samples(samples, extent)
    share = cells.read / samples.count[:, None, None]
    matrix = share.new_zeros(len(share), samples.pooled, extent)
    matrix = matrix.scatter_add(2, cells.low, share * (1 - cells.fraction))
    return matrix.scatter_add(2, cells.high, share * cells.fraction)


def _read(masks: Tensor, corner: Corner) -> Tensor:
    """The values of each box's own mask [k, h, w]."""
    cells = (corner.row * masks.shape[2] + corner.column).expand(corner.read.shape)
    return torch.where(corner.read, masks.flatten(1).gather(1, cells.flatten(1)).view(cells.shape), 0.0)
