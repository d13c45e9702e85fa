"""RoIAlign in pure PyTorch: the definition that the kernels are held against.

Differentiable to the features and to the boxes, on any device and for any floating type. RoIs are taken in
chunks, which bounds the memory and changes no result. `rois` [K, 5] holds image index, x1, y1, x2, y2 in
the type that is computed in: float64 for float64 features, float32 for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.ops.reference.samples import channels_at_once, chunks
from roialign.ops.reference.sampling import AxisSamples, Bilinear, BoxRule, corners


@dataclass(frozen=True)
class Chunk:
    """Some RoIs of one image and the cells that their samples read."""

    image: int
    members: Tensor  # [k], their rows in `rois`
    rows: AxisSamples
    columns: AxisSamples
    row_taps: Bilinear
    column_taps: Bilinear

    @property
    def on_map(self) -> Tensor:
        """Whether each sample is on the map, [k, ph, pw, gh, gw]."""
        return self.row_taps.on_map[:, :, None, :, None] & self.column_taps.on_map[:, None, :, None, :]

    @property
    def divisor(self) -> Tensor:
        """Samples of a bin, those off the map included, [k, 1, 1, 1]."""
        return (self.rows.grid * self.columns.grid).clamp(min=1).to(self.rows.start.dtype)[:, None, None, None]

    def corners(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Row, column and weight of the four cells that each sample reads, broadcast to [k, ph, pw, gh, gw]."""
        rows, columns = self.row_taps.cells, self.column_taps.cells
        return corners(rows[:, :, None, :, None], columns[:, None, :, None, :])

    def coverage(self) -> Tensor:
        return self.row_taps.share(self.rows) * self.column_taps.share(self.columns)


def roi_align(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    return pool(input, rois, (pooled_height, pooled_width), BoxRule.of_scale(spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    images: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, for `grad` [K, C, ph, pw] of the output."""
    return scatter(grad, rois, (images, height, width), BoxRule.of_scale(spatial_scale, sampling_ratio, aligned))


def roi_align_backward_boxes(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    return correlate(grad, input, rois, BoxRule.of_scale(spatial_scale, sampling_ratio, aligned))


def pool(input: Tensor, rois: Tensor, pooled_hw: tuple[int, int], rule: BoxRule) -> tuple[Tensor, Tensor]:
    """Features [K, C, ph, pw] and coverage [K] of the RoIs on one map."""
    features = input.to(rois.dtype)
    outputs, coverages, order = [], [], []
    for chunk in box_chunks(rois, input.shape, pooled_hw, rule):
        on_map = chunk.on_map
        pooled = []
        for planes in features[chunk.image].split(channels_at_once(on_map)):
            total = torch.zeros((), dtype=rois.dtype, device=rois.device)
            for row, column, weight in chunk.corners():
                # where, not times: a NaN that no sample reads stays out
                total = total + weight * torch.where(on_map, planes[:, row, column], 0.0)
            pooled.append(total.sum((-2, -1)))
        outputs.append(torch.cat(pooled).transpose(0, 1) / chunk.divisor)
        coverages.append(chunk.coverage())
        order.append(chunk.members)
    if not order:
        return input.new_empty(0, input.shape[1], *pooled_hw), rois.new_empty(0)
    restore = torch.cat(order).argsort()
    return torch.cat(outputs)[restore].to(input.dtype), torch.cat(coverages)[restore].detach()


def scatter(grad: Tensor, rois: Tensor, size_nhw: tuple[int, int, int], rule: BoxRule) -> Tensor:
    """Gradient [N, C, H, W] to the features of one map."""
    images, height, width = size_nhw
    input_shape = torch.Size((images, grad.shape[1], height, width))
    grad_input = rois.new_zeros(input_shape)
    for chunk in box_chunks(rois, input_shape, grad.shape[2:], rule):
        on_map = chunk.on_map
        upstream = (grad[chunk.members].to(rois.dtype) / chunk.divisor).transpose(0, 1)  # [C, k, ph, pw]
        planes = grad_input[chunk.image].flatten(1)
        step = channels_at_once(on_map)
        for grad_planes, values in zip(planes.split(step), upstream.split(step), strict=True):
            for row, column, weight in chunk.corners():
                cells = (row * width + column).expand_as(on_map)[on_map]
                shares = (values[..., None, None] * weight)[:, on_map]
                grad_planes.index_add_(1, cells, shares)
    return grad_input.to(grad.dtype)


def correlate(grad: Tensor, input: Tensor, rois: Tensor, rule: BoxRule) -> Tensor:
    """Gradient [K, 5] to the RoIs on one map."""
    features = input.to(rois.dtype)
    grad_rois = torch.zeros_like(rois)
    for chunk in box_chunks(rois, input.shape, grad.shape[2:], rule):
        on_map = chunk.on_map
        upstream = (grad[chunk.members].to(rois.dtype) / chunk.divisor).transpose(0, 1)  # [C, k, ph, pw]
        ly, lx = (taps.cells.fraction for taps in (chunk.row_taps, chunk.column_taps))
        grad_ly, grad_lx = torch.zeros_like(ly), torch.zeros_like(lx)
        step = channels_at_once(on_map)
        for planes, values in zip(features[chunk.image].split(step), upstream.split(step), strict=True):
            cells = [torch.where(on_map, planes[:, row, column], 0.0) for row, column, _ in chunk.corners()]
            top_left, top_right, bottom_left, bottom_right = ((values[..., None, None] * cell).sum(0) for cell in cells)
            along_x = lx[:, None, :, None, :]
            along_y = ly[:, :, None, :, None]
            top, bottom = top_left.lerp(top_right, along_x), bottom_left.lerp(bottom_right, along_x)
            left, right = top_left.lerp(bottom_left, along_y), top_right.lerp(bottom_right, along_y)
            grad_ly += (bottom - top).sum((2, 4))
            grad_lx += (right - left).sum((1, 3))
        grad_y1, grad_y2 = chunk.row_taps.differentiate(grad_ly, chunk.rows, rule.rows.scale, rule.widen)
        grad_x1, grad_x2 = chunk.column_taps.differentiate(grad_lx, chunk.columns, rule.columns.scale, rule.widen)
        grad_rois[chunk.members, 1:] = torch.stack([grad_x1, grad_y1, grad_x2, grad_y2], dim=1)
    return grad_rois


def box_chunks(
    rois: Tensor, input_shape: torch.Size, pooled_hw: tuple[int, int] | torch.Size, rule: BoxRule
) -> Iterator[Chunk]:
    """Cut the RoIs of each image into chunks of like size, each with a bounded number of samples to read."""
    _, channels, height, width = input_shape
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisSamples.of_boxes(y1, y2, pooled_hw[0], height, rule.rows, rule)
    columns = AxisSamples.of_boxes(x1, x2, pooled_hw[1], width, rule.columns, rule)
    grids = rows.grid.clamp(1, 2 * height) * columns.grid.clamp(1, 2 * width)
    sizes = grids * (pooled_hw[0] * pooled_hw[1] * max(channels, 1))
    for image, members in chunks(rois[:, 0].detach().long(), sizes):
        chunk_rows, chunk_columns = rows[members], columns[members]
        taps = Bilinear.of_samples(chunk_rows), Bilinear.of_samples(chunk_columns)
        yield Chunk(image, members, chunk_rows, chunk_columns, *taps)
