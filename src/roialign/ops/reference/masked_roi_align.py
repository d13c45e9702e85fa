"""RoIAlign under instance masks in pure PyTorch: the definition that the kernels are held against.

Each sample weighs what the mask is there: a bin is sum(w f) / sum(w) over its samples, and 0 where sum(w) is 0.
`masks` [K, h, w] are bool or of the type of `rois`; `sum(w)` factors into rows and columns of the mask, so samples
off the map, which count with f = 0, need not be looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference import samples as sampled
from roialign.ops.reference.samples import Samples
from roialign.ops.reference.sampling import AxisSamples, Bilinear, BoxRule, Cells, corners, is_on_map


class MaskedRule(NamedTuple):
    """How boxes and masks are read."""

    spatial_scale: float
    sampling_ratio: int
    aligned: bool
    masks_in_image: bool

    @property
    def box(self) -> BoxRule:
        return BoxRule.of_scale(self.spatial_scale, self.sampling_ratio, self.aligned)


@dataclass(frozen=True)
class _Axis:
    """The samples of some RoIs along one axis, on the map and on the mask."""

    on_map: AxisSamples
    on_mask: AxisSamples
    taps: Bilinear  # of the samples on the map
    reads_mask: Tensor  # bool, which of them are on the mask too
    pixels: Cells  # of the mask, which those read
    mask_taps: Bilinear  # of the samples on the mask
    matrix: Tensor  # [k, bins, pixels], their mean

    @classmethod
    def of(cls, on_map: AxisSamples, on_mask: AxisSamples) -> _Axis:
        taps, mask_taps = Bilinear.of_samples(on_map), Bilinear.of_samples(on_mask)
        position = on_mask.positions(taps.index)
        reads_mask = taps.on_map & is_on_map(position, on_mask.extent)
        pixels = Cells.at(position, reads_mask, on_mask.extent)
        matrix = on_map.start.new_zeros(len(on_map.start), on_map.pooled, on_mask.extent)
        share = mask_taps.on_map / on_map.grid.clamp(min=1).to(matrix.dtype)[:, None, None]
        matrix = matrix.scatter_add(2, mask_taps.cells.low, share * (1 - mask_taps.cells.fraction))
        matrix = matrix.scatter_add(2, mask_taps.cells.high, share * mask_taps.cells.fraction)
        return cls(on_map, on_mask, taps, reads_mask, pixels, mask_taps, matrix)

    def to_sides(self, by_fraction: Tensor, cells: Cells, index: Tensor, widen: bool) -> tuple[Tensor, Tensor]:
        """From gradients to the fractions of samples [k, bins, G] to those of the box's two sides [k]."""
        by_position = torch.where(cells.free, by_fraction, 0.0)
        size = (by_position * self.on_map.shares(index)).sum((1, 2))
        if widen:
            size = torch.where(self.on_map.bin * self.on_map.pooled > 1, size, 0.0)
        return by_position.sum((1, 2)) - size, size


@dataclass(frozen=True)
class _Chunk:
    samples: Samples
    rows: _Axis
    columns: _Axis
    masks: Tensor  # [k, h, w]
    total: Tensor  # [k, ph, pw], the mean weight of a bin's samples
    share: Tensor  # [k, ph, pw, 1, 1], what a sample of weight 1 adds to its bin

    def reads_mask(self) -> Tensor:
        return self.rows.reads_mask[:, :, None, :, None] & self.columns.reads_mask[:, None, :, None, :]

    def pixels(self) -> tuple[Cells, Cells]:
        return self.rows.pixels[:, :, None, :, None], self.columns.pixels[:, None, :, None, :]

    def mask_at(self, row: Tensor, column: Tensor) -> Tensor:
        which = torch.arange(len(self.masks), device=row.device)[:, None, None, None, None]
        return torch.where(self.reads_mask(), self.masks[which, row, column], 0.0)


def masked_roi_align(
    input: Tensor, rois: Tensor, masks: Tensor, pooled_height: int, pooled_width: int, *options: float
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    coverage = rois.detach().new_zeros(len(rois))
    differentiable = rois.requires_grad or masks.requires_grad

    def covered() -> Iterator[Samples]:
        for chunk in _chunks(rois, masks, input.shape, (pooled_height, pooled_width), _rule(options)):
            rows, columns = chunk.rows, chunk.columns
            share = rows.taps.share(rows.on_map) * columns.taps.share(columns.on_map)
            coverage[chunk.samples.members] = share.detach()
            yield chunk.samples if differentiable else _where_weighted(chunk.samples)

    shape = (len(rois), input.shape[1], pooled_height, pooled_width)
    return sampled.pool(input, covered(), shape, rois.dtype), coverage


def masked_roi_align_backward(
    grad: Tensor, rois: Tensor, masks: Tensor, images: int, height: int, width: int, *options: float
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, for `grad` [K, C, ph, pw] of the output."""
    shape = torch.Size((images, grad.shape[1], height, width))
    chunks = _chunks(rois, masks, shape, _pooled_hw(grad), _rule(options))
    parts = (_where_weighted(chunk.samples) for chunk in chunks)
    return sampled.scatter(grad, parts, (images, height, width), rois.dtype)


def masked_roi_align_backward_boxes(
    grad: Tensor, input: Tensor, rois: Tensor, masks: Tensor, *options: float
) -> tuple[Tensor, Tensor]:
    """Gradients [K, 5] with respect to the boxes and [K, h, w] to the masks; the image index gets none."""
    rule = _rule(options)
    grad_rois, grad_masks = torch.zeros_like(rois), torch.zeros(masks.shape, dtype=rois.dtype, device=rois.device)
    for chunk in _chunks(rois, masks, input.shape, _pooled_hw(grad), rule):
        slopes = sampled.slopes(input, grad, chunk.samples)
        by_sample = torch.where(chunk.samples.reads, slopes.by_weight, 0.0)
        by_total = -(by_sample * chunk.samples.weight).sum((3, 4)) * _inverse(chunk.total)
        members = chunk.samples.members
        grad_masks[members] = _to_masks(chunk, by_sample * chunk.share, by_total)
        scale, widen = rule.spatial_scale, rule.box.widen
        rows, columns = chunk.rows, chunk.columns
        low_y, high_y = rows.to_sides(slopes.by_row.sum((2, 4)), rows.taps.cells, rows.taps.index, widen)
        low_x, high_x = columns.to_sides(slopes.by_column.sum((1, 3)), columns.taps.cells, columns.taps.index, widen)
        sides = torch.stack([low_x, low_y, high_x, high_y], 1) * scale
        if rule.masks_in_image:
            sides = sides + _through_masks(chunk, by_sample * chunk.share, by_total, widen)
        grad_rois[members, 1:] = sides
    return grad_rois, grad_masks


def _to_masks(chunk: _Chunk, by_weight: Tensor, by_total: Tensor) -> Tensor:
    """Gradient [k, h, w] to the masks, from that to the samples' weights and that to their means."""
    whole = torch.einsum("kpq,kpr,kqc->krc", by_total, chunk.rows.matrix, chunk.columns.matrix).flatten(1)
    reads, width = chunk.reads_mask(), chunk.masks.shape[2]
    for row, column, weight in corners(*chunk.pixels()):
        cells = (row * width + column).expand_as(reads).flatten(1)
        shares = torch.where(reads, by_weight * weight, 0.0)
        whole = whole.scatter_add(1, cells, shares.flatten(1))
    return whole.view_as(chunk.masks)


def _through_masks(chunk: _Chunk, by_weight: Tensor, by_total: Tensor, widen: bool) -> Tensor:
    """What the boxes' sides [k, 4] change by moving the samples on the masks."""
    rows, columns, masks = chunk.rows, chunk.columns, chunk.masks
    cells_y, cells_x = chunk.pixels()
    top_left, top_right, bottom_left, bottom_right = (
        chunk.mask_at(row, column) for row, column, _ in corners(cells_y, cells_x)
    )
    by_row = (bottom_left - top_left).lerp(bottom_right - top_right, cells_x.fraction) * by_weight
    by_column = (top_right - top_left).lerp(bottom_right - bottom_left, cells_y.fraction) * by_weight
    by_row_matrix = torch.einsum("kpq,krc,kqc->kpr", by_total, masks, columns.matrix)
    by_column_matrix = torch.einsum("kpq,krc,kpr->kqc", by_total, masks, rows.matrix)
    sides = []
    for axis, by_fraction, by_matrix in (
        (columns, by_column.sum((1, 3)), by_column_matrix),
        (rows, by_row.sum((2, 4)), by_row_matrix),
    ):
        cells, grid = axis.mask_taps.cells, axis.on_map.grid.clamp(min=1)[:, None, None]
        by_mean = (by_matrix.gather(2, cells.high) - by_matrix.gather(2, cells.low)) / grid
        first = axis.to_sides(by_fraction, axis.pixels, axis.taps.index, widen)
        second = axis.to_sides(by_mean, cells, axis.mask_taps.index, widen)
        sides.append((first[0] + second[0], first[1] + second[1]))
    (low_x, high_x), (low_y, high_y) = sides
    return torch.stack([low_x, low_y, high_x, high_y], 1)


def _rule(options: tuple[float, ...]) -> MaskedRule:
    scale, ratio, aligned, masks_in_image = options
    return MaskedRule(scale, int(ratio), bool(aligned), bool(masks_in_image))


def _pooled_hw(grad: Tensor) -> tuple[int, int]:
    return grad.shape[2], grad.shape[3]


def _where_weighted(samples: Samples) -> Samples:
    """A sample of no weight reads nothing, so what is under it does not matter."""
    return replace(samples, reads=samples.reads & (samples.weight != 0))


def _inverse(total: Tensor) -> Tensor:
    return torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))


def _mask_axis(axis: AxisSamples, low: Tensor, extent: int, rule: MaskedRule) -> AxisSamples:
    """Where the same samples lie on the masks, in pixels: those of the image, or those that cover the box."""
    if rule.masks_in_image:
        return AxisSamples(low - 0.5, axis.bin / rule.spatial_scale, axis.grid, axis.pooled, extent)
    start = torch.full_like(axis.start, -0.5)
    return AxisSamples(start, torch.full_like(axis.bin, extent / axis.pooled), axis.grid, axis.pooled, extent)


def _chunks(
    rois: Tensor, masks: Tensor, input_shape: torch.Size, pooled_hw: tuple[int, int], rule: MaskedRule
) -> Iterator[_Chunk]:
    _, channels, height, width = input_shape
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisSamples.of_boxes(y1, y2, pooled_hw[0], height, rule.box.rows, rule.box)
    columns = AxisSamples.of_boxes(x1, x2, pooled_hw[1], width, rule.box.columns, rule.box)
    grids = rows.grid.clamp(1, 2 * height) * columns.grid.clamp(1, 2 * width)
    along_mask = (rows.grid.clamp(min=1) + columns.grid.clamp(min=1)) * max(pooled_hw)
    sizes = grids * (pooled_hw[0] * pooled_hw[1] * max(channels, 1)) + along_mask + masks.shape[1] * masks.shape[2]
    for image, members in sampled.chunks(rois[:, 0].detach().long(), sizes):
        own = masks[members].to(rois.dtype)
        axes = [
            _Axis.of(axis[members], _mask_axis(axis[members], low[members], extent, rule))
            for axis, low, extent in ((rows, y1, masks.shape[1]), (columns, x1, masks.shape[2]))
        ]
        yield _chunk(image, members, own, *axes)


def _chunk(image: int, members: Tensor, masks: Tensor, rows: _Axis, columns: _Axis) -> _Chunk:
    total = torch.einsum("kpr,krc,kqc->kpq", rows.matrix, masks, columns.matrix)
    grid = (rows.on_map.grid.clamp(min=1) * columns.on_map.grid.clamp(min=1)).to(total.dtype)
    share = (_inverse(total) / grid[:, None, None])[..., None, None]
    reads = rows.taps.on_map[:, :, None, :, None] & columns.taps.on_map[:, None, :, None, :]
    cells = rows.taps.cells[:, :, None, :, None], columns.taps.cells[:, None, :, None, :]
    without_weight = Samples(image, members, reads, *cells, share)
    chunk = _Chunk(without_weight, rows, columns, masks, total, share)
    value = sum(weight * chunk.mask_at(row, column) for row, column, weight in corners(*chunk.pixels()))
    return replace(chunk, samples=replace(without_weight, weight=value * share))
