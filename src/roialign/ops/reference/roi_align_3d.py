"""RoIAlign of volumes in pure PyTorch: the definition that the kernels are held against.

`rois` [K, 7] holds image index, x1, y1, z1, x2, y2, z2 in the type that is computed in: float64 for float64 features,
float32 for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference import taps
from roialign.ops.reference.sampling import AxisSamples, Bilinear, BoxRule
from roialign.ops.reference.taps import AxisTaps

_AXES_ZYX = (2, 1, 0)  # columns of z, y and x among x, y, z


class _Axis(NamedTuple):
    scale: float
    samples: AxisSamples
    bilinear: Bilinear

    def taps(self) -> AxisTaps:
        """The low cells of all samples, then the high ones."""
        low, high, fraction, on_map = (
            self.bilinear.cells.low,
            self.bilinear.cells.high,
            self.bilinear.cells.fraction,
            self.bilinear.on_map,
        )
        weight = torch.cat([1 - fraction, fraction], 2) / self.grid
        return AxisTaps(torch.cat([low, high], 2), weight, torch.cat([on_map, on_map & (high > low)], 2))

    @property
    def grid(self) -> Tensor:
        return self.samples.grid.clamp(min=1).to(self.samples.start.dtype)[:, None, None]

    def differentiate(self, grad_weight: Tensor, widen: bool) -> tuple[Tensor, Tensor]:
        """Gradients [K] with respect to the low and the high side of the boxes."""
        of_low, of_high = grad_weight.chunk(2, 2)
        return self.bilinear.differentiate((of_high - of_low) / self.grid, self.samples, self.scale, widen)


def roi_align_3d(
    input: Tensor,
    rois: Tensor,
    pooled_depth: int,
    pooled_height: int,
    pooled_width: int,
    scale_z: float,
    scale_y: float,
    scale_x: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_depth, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    pooled, scales = (pooled_depth, pooled_height, pooled_width), (scale_z, scale_y, scale_x)
    axes = _axes(rois, pooled, input.shape[2:], scales, sampling_ratio, aligned)
    coverage = torch.stack([axis.bilinear.share(axis.samples) for axis in axes]).prod(0)
    return taps.pool(input, rois, [axis.taps() for axis in axes]), coverage.detach()


def roi_align_3d_backward(
    grad: Tensor,
    rois: Tensor,
    images: int,
    depth: int,
    height: int,
    width: int,
    scale_z: float,
    scale_y: float,
    scale_x: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Gradient [N, C, D, H, W] with respect to the features, for `grad` [K, C, pd, ph, pw] of the output."""
    size, scales = (depth, height, width), (scale_z, scale_y, scale_x)
    axes = _axes(rois, grad.shape[2:], size, scales, sampling_ratio, aligned)
    return taps.scatter(grad, rois, (images, grad.shape[1], *size), [axis.taps() for axis in axes])


def roi_align_3d_backward_boxes(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    scale_z: float,
    scale_y: float,
    scale_x: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Gradient [K, 7] with respect to the boxes; the image index gets none."""
    axes = _axes(rois, grad.shape[2:], input.shape[2:], (scale_z, scale_y, scale_x), sampling_ratio, aligned)
    of_weights = taps.correlate(grad, input, rois, [axis.taps() for axis in axes])
    grad_rois = torch.zeros_like(rois)
    for column, axis, of_weight in zip(_AXES_ZYX, axes, of_weights, strict=True):
        grad_rois[:, 1 + column], grad_rois[:, 4 + column] = axis.differentiate(of_weight, not aligned)
    return grad_rois


def _axes(
    rois: Tensor,
    pooled_dhw: Sequence[int],
    size_dhw: Sequence[int],
    scales_zyx: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[_Axis]:
    axes = []
    for column, pooled, extent, scale in zip(_AXES_ZYX, pooled_dhw, size_dhw, scales_zyx, strict=True):
        rule = BoxRule.of_scale(scale, sampling_ratio, aligned)
        samples = AxisSamples.of_boxes(rois[:, 1 + column], rois[:, 4 + column], pooled, extent, rule.rows, rule)
        axes.append(_Axis(scale, samples, Bilinear.of_samples(samples)))
    return axes
