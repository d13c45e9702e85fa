"""Separable pooling in pure PyTorch, along any number of axes: a bin is a weighted sum of the cells that it reads.

What is read of an axis, and with which weights, each operator says by its `AxisTaps`. RoIs are taken in chunks, which
bounds the memory and changes no result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class AxisTaps:
    """The cells that the bins of K RoIs read along one axis, all [K, pooled, taps]."""

    cell: Tensor  # int64
    weight: Tensor  # differentiable to the boxes
    read: Tensor  # bool; elsewhere nothing is read

    def __getitem__(self, members: Tensor) -> AxisTaps:
        return AxisTaps(self.cell[members], self.weight[members], self.read[members])


def pool(input: Tensor, rois: Tensor, axes: Sequence[AxisTaps]) -> Tensor:
    """Features [K, C, *bins] of the RoIs on the maps [N, C, *cells], an entry of `axes` for each axis."""
    features = input.to(rois.dtype)
    outputs, order = [], []
    for image, members, channels in _chunks(rois, input.shape, axes):
        chosen = [taps[members] for taps in axes]
        outputs.append(torch.cat([_contract(part, chosen) for part in features[image].split(channels)]).transpose(0, 1))
        order.append(members)
    if not order:
        return input.new_empty(0, input.shape[1], *(taps.cell.shape[1] for taps in axes))
    return torch.cat(outputs)[torch.cat(order).argsort()].to(input.dtype)


def scatter(grad: Tensor, rois: Tensor, input_shape: Sequence[int], axes: Sequence[AxisTaps]) -> Tensor:
    """Gradient [N, C, *cells] to the features, for `grad` [K, C, *bins] of the output."""
    grad_input = rois.new_zeros(input_shape)
    for image, members, channels in _chunks(rois, input_shape, axes):
        chosen = [taps[members] for taps in axes]
        upstream = grad[members].to(rois.dtype).transpose(0, 1)
        for planes, values in zip(grad_input[image].split(channels), upstream.split(channels), strict=True):
            planes += _spread(values, chosen, input_shape[2:])
    return grad_input.to(grad.dtype)


def correlate(grad: Tensor, input: Tensor, rois: Tensor, axes: Sequence[AxisTaps]) -> list[Tensor]:
    """Gradient [K, pooled, taps] to the weights of each axis."""
    features = input.to(rois.dtype)
    grad_weights = [torch.zeros_like(taps.weight) for taps in axes]
    for image, members, channels in _chunks(rois, input.shape, axes):
        chosen = [taps[members] for taps in axes]
        upstream = grad[members].to(rois.dtype).transpose(0, 1)
        for planes, values in zip(features[image].split(channels), upstream.split(channels), strict=True):
            for axis, grad_weight in enumerate(grad_weights):
                grad_weight[members] += _correlate_axis(values, planes, chosen, axis)
    return grad_weights


def _gather(values: Tensor, taps: AxisTaps) -> Tensor:
    """The cells that are read of the axis after the RoIs': [C, k, cells, ...] to [C, k, pooled, taps, ...]."""
    roi = torch.arange(len(taps.cell), device=values.device)[:, None, None]
    cells = values[:, roi, taps.cell]
    return torch.where(_beside(taps.read, cells), cells, 0.0)  # not times: a NaN that nothing reads stays out


def _beside(of_taps: Tensor, values: Tensor) -> Tensor:
    """[k, pooled, taps] so that it broadcasts to [C, k, pooled, taps, ...]."""
    return of_taps.reshape(of_taps.shape + (1,) * (values.dim() - 4))


def _contract(planes: Tensor, axes: Sequence[AxisTaps]) -> Tensor:
    """[C, *cells] to [C, k, *bins]: each axis in turn becomes bins and goes to the end."""
    values = planes[:, None].expand(-1, len(axes[0].cell), *planes.shape[1:])
    for taps in axes:
        cells = _gather(values, taps)
        values = (cells * _beside(taps.weight, cells)).sum(3).movedim(2, -1)
    return values


def _spread(grad: Tensor, axes: Sequence[AxisTaps], extents: Sequence[int]) -> Tensor:
    """The transpose of `_contract`, summed over the RoIs: [C, k, *bins] to [C, *cells]."""
    for taps, extent in zip(reversed(axes), reversed(extents), strict=True):
        values = grad.movedim(-1, 2).unsqueeze(3)  # [C, k, pooled, 1, ...]
        shares = torch.where(_beside(taps.read, values), values * _beside(taps.weight, values), 0.0)
        count, rest = len(taps.cell), shares.shape[4:]
        roi = torch.arange(count, device=grad.device)[:, None, None]
        cells = grad.new_zeros(grad.shape[0], count * extent, *rest)
        cells.index_add_(1, (roi * extent + taps.cell).flatten(), shares.flatten(1, 3))
        grad = cells.unflatten(1, (count, extent))
    return grad.sum(1)


def _correlate_axis(grad: Tensor, planes: Tensor, axes: Sequence[AxisTaps], axis: int) -> Tensor:
    """The gradient to the weights of one axis: the other axes are contracted first."""
    values = planes.movedim(1 + axis, -1)[:, None]
    values = values.expand(-1, len(axes[0].cell), *values.shape[2:])
    for taps in (*axes[:axis], *axes[axis + 1 :]):
        cells = _gather(values, taps)
        values = (cells * _beside(taps.weight, cells)).sum(3).movedim(2, -1)
    cells = _gather(values, axes[axis])
    products = cells * grad.movedim(2 + axis, 2).unsqueeze(3)
    return products.sum((0, *range(4, products.dim())))


def _chunks(rois: Tensor, input_shape: Sequence[int], axes: Sequence[AxisTaps]) -> Iterator[tuple[int, Tensor, int]]:
    """RoIs of one image, few enough, and how many channels to take at once."""
    extents = input_shape[2:]
    largest = 1
    for taps, extent in zip(axes, extents, strict=True):
        read = taps.cell.shape[1] * taps.cell.shape[2]
        for other_taps, other_extent in zip(axes, extents, strict=True):
            if other_taps is not taps:
                read *= max(other_taps.cell.shape[1], other_extent)
        largest = max(largest, read, extent)
    channels = max(1, min(_VALUES_AT_ONCE // largest, max(input_shape[1], 1)))
    rois_at_once = max(1, _VALUES_AT_ONCE // (largest * channels))
    images = rois[:, 0].detach().long()
    for image in images.unique().tolist():
        for members in (images == image).nonzero().flatten().split(rois_at_once):
            yield image, members, channels
