"""Precise RoI pooling in pure PyTorch: the definition that the kernels are held against.

`rois` [K, 5] holds image index, x1, y1, x2, y2 in the type that is computed in: float64 for float64 features, float32
for all others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference import taps
from roialign.ops.reference.sampling import AxisBins
from roialign.ops.reference.taps import AxisTaps


class _Bins(NamedTuple):
    rows: AxisBins
    columns: AxisBins

    def taps(self) -> list[AxisTaps]:
        return [AxisTaps(*along.integrate()) for along in self]


def prroi_pool(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    bins = _bins(rois, (pooled_height, pooled_width), input.shape[2:], spatial_scale)
    coverage = bins.rows.share() * bins.columns.share()
    return taps.pool(input, rois, bins.taps()), coverage.detach()


def prroi_pool_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, spatial_scale: float
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, for `grad` [K, C, ph, pw] of the output."""
    axes = _bins(rois, grad.shape[2:], (height, width), spatial_scale).taps()
    return taps.scatter(grad, rois, (images, grad.shape[1], height, width), axes)


def prroi_pool_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    bins = _bins(rois, grad.shape[2:], input.shape[2:], spatial_scale)
    axes = bins.taps()
    of_rows, of_columns = taps.correlate(grad, input, rois, axes)
    y1, y2 = bins.rows.differentiate(axes[0].cell, axes[0].weight, axes[0].read, of_rows)
    x1, x2 = bins.columns.differentiate(axes[1].cell, axes[1].weight, axes[1].read, of_columns)
    return torch.stack([torch.zeros_like(x1), x1, y1, x2, y2], 1) * spatial_scale


def _bins(
    rois: Tensor, pooled_hw: tuple[int, int] | torch.Size, size_hw: tuple[int, int] | torch.Size, spatial_scale: float
) -> _Bins:
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisBins.of_boxes(y1, y2, pooled_hw[0], size_hw[0], spatial_scale)
    return _Bins(rows, AxisBins.of_boxes(x1, x2, pooled_hw[1], size_hw[1], spatial_scale))
