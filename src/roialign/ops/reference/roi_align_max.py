"""RoIAlign with the largest sample of each bin, in pure PyTorch: the definition that the kernels are held against.

Samples off the map are 0 and count. With `corners` the largest product of a cell and its weight counts, not the
largest sum of a sample's four: so ONNX defines it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference.roi_align import Chunk, box_chunks
from roialign.ops.reference.samples import channels_at_once
from roialign.ops.reference.sampling import BoxRule


class _Largest(NamedTuple):
    """Of some channels [C] of a chunk: what is largest in each bin, and where, all [C, k, ph, pw]."""

    value: Tensor
    place: Tensor  # int64, among the bin's candidates: samples, or with corners their corners
    on_map: Tensor  # bool; elsewhere it is 0 and of no cell


def roi_align_max(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    corners: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    rule, pooled_hw = BoxRule.of_scale(spatial_scale, sampling_ratio, aligned), (pooled_height, pooled_width)
    features, outputs, coverages, order = input.to(rois.dtype), [], [], []
    for chunk in box_chunks(rois, input.shape, pooled_hw, rule):
        parts = features[chunk.image].split(channels_at_once(chunk.on_map))
        outputs.append(torch.cat([_largest(chunk, planes, corners).value for planes in parts]).transpose(0, 1))
        coverages.append(chunk.coverage())
        order.append(chunk.members)
    if not order:
        return input.new_empty(0, input.shape[1], *pooled_hw), rois.new_empty(0)
    restore = torch.cat(order).argsort()
    return torch.cat(outputs)[restore].to(input.dtype), torch.cat(coverages)[restore].detach()


def roi_align_max_backward(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool, corners: bool
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features."""
    rule, width = BoxRule.of_scale(spatial_scale, sampling_ratio, aligned), input.shape[3]
    features, grad_input = input.to(rois.dtype), rois.new_zeros(input.shape)
    for chunk in box_chunks(rois, input.shape, grad.shape[2:], rule):
        if chunk.on_map.numel() == 0:
            continue
        upstream = grad[chunk.members].to(rois.dtype).transpose(0, 1)
        step = channels_at_once(chunk.on_map)
        for grad_planes, planes, values in zip(
            grad_input[chunk.image].flatten(1).split(step),
            features[chunk.image].split(step),
            upstream.split(step),
            strict=True,
        ):
            largest = _largest(chunk, planes, corners)
            shares = torch.where(largest.on_map, values, 0.0)
            for row, column, weight in _chosen(chunk, largest, corners):
                part = torch.where(weight == 0, 0.0, shares * weight)
                grad_planes.scatter_add_(1, (row * width + column).flatten(1), part.flatten(1))
    return grad_input.to(grad.dtype)


def roi_align_max_backward_boxes(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool, corners: bool
) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    rule = BoxRule.of_scale(spatial_scale, sampling_ratio, aligned)
    features, grad_rois = input.to(rois.dtype), torch.zeros_like(rois)
    for chunk in box_chunks(rois, input.shape, grad.shape[2:], rule):
        if chunk.on_map.numel() == 0:
            continue
        upstream = grad[chunk.members].to(rois.dtype).transpose(0, 1)
        grad_ly, grad_lx = (torch.zeros_like(taps.cells.fraction) for taps in (chunk.row_taps, chunk.column_taps))
        step = channels_at_once(chunk.on_map)
        for planes, values in zip(features[chunk.image].split(step), upstream.split(step), strict=True):
            largest = _largest(chunk, planes, corners)
            by_y, by_x = _slopes(chunk, planes, largest, corners)
            sample = largest.place // 4 if corners else largest.place
            for slope, total, axes in ((by_y, grad_ly, (2, 4)), (by_x, grad_lx, (1, 3))):
                part = torch.where(largest.on_map, values * slope, 0.0)
                of_samples = part.new_zeros(*part.shape, chunk.on_map[0, 0, 0].numel())
                of_samples.scatter_(-1, sample[..., None], part[..., None])
                total += of_samples.sum(0).unflatten(-1, chunk.on_map.shape[3:]).sum(axes)
        grad_y1, grad_y2 = chunk.row_taps.differentiate(grad_ly, chunk.rows, rule.rows.scale, rule.widen)
        grad_x1, grad_x2 = chunk.column_taps.differentiate(grad_lx, chunk.columns, rule.columns.scale, rule.widen)
        grad_rois[chunk.members, 1:] = torch.stack([grad_x1, grad_y1, grad_x2, grad_y2], dim=1)
    return grad_rois


def _largest(chunk: Chunk, planes: Tensor, corners: bool) -> _Largest:
    on_map = chunk.on_map
    products = [weight * torch.where(on_map, planes[:, row, column], 0.0) for row, column, weight in chunk.corners()]
    candidates = torch.stack(products, -1) if corners else torch.stack(products).sum(0)[..., None]
    count = on_map.flatten(-2).sum(-1)  # [k, ph, pw]
    samples = (chunk.rows.grid.clamp(min=0) * chunk.columns.grid.clamp(min=0))[:, None, None]
    if on_map.numel() == 0:
        zeros = planes.new_zeros(len(planes), *count.shape)
        return _Largest(zeros, zeros.long(), zeros.bool())
    value, place = torch.where(on_map[..., None], candidates, -torch.inf).flatten(-3).max(-1)
    found = (count > 0) & ~((count < samples) & (value < 0))
    return _Largest(torch.where(found, value, 0.0), place, found)


def _chosen(chunk: Chunk, largest: _Largest, corners: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and weight of the cells that the largest sample reads, or of the largest corner alone."""
    shape, samples = chunk.on_map.shape, chunk.on_map[0, 0, 0].numel()
    place = largest.place // 4 if corners else largest.place
    found = []
    for number, parts in enumerate(chunk.corners()):
        row, column, weight = (
            part.expand(shape).flatten(-2).expand(len(place), *shape[:3], samples).gather(-1, place[..., None])[..., 0]
            for part in parts
        )
        if corners:
            weight = torch.where(largest.place % 4 == number, weight, 0.0)
        found.append((row, column, weight))
    return found


def _slopes(chunk: Chunk, planes: Tensor, largest: _Largest, corners: bool) -> tuple[Tensor, Tensor]:
    """How what is largest changes with the fractions of its row and its column, [C, k, ph, pw]."""
    by_y, by_x = torch.zeros_like(largest.value), torch.zeros_like(largest.value)
    channel = torch.arange(len(planes), device=planes.device)[:, None, None, None]
    shape = chunk.on_map.shape
    place = largest.place // 4 if corners else largest.place
    ly = chunk.row_taps.cells.fraction[:, :, None, :, None].expand(shape).flatten(-2)
    lx = chunk.column_taps.cells.fraction[:, None, :, None, :].expand(shape).flatten(-2)
    ly, lx = (part.expand(len(planes), *part.shape).gather(-1, place[..., None])[..., 0] for part in (ly, lx))
    for number, (row, column, _) in enumerate(_chosen(chunk, largest, corners)):
        value = planes[channel, row, column]
        if corners:
            value = torch.where(largest.place % 4 == number, value, 0.0)
        low, left = number // 2 == 0, number % 2 == 0
        by_y = by_y + (-value if low else value) * (1 - lx if left else lx)
        by_x = by_x + (-value if left else value) * (1 - ly if low else ly)
    return by_y, by_x
