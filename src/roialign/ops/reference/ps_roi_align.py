"""ps_roi_align in pure PyTorch: roi_align with aligned=True, of which each bin keeps the channel that is its own.

Bin (p, q) of channel c of the output reads channel (c * height + p) * width + q of the features. A box without samples
(of no size, under adaptive sampling) gives 0, or NaN with `nan_if_empty`, as torchvision's division by no samples does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.ops.reference.roi_align import correlate, pool, scatter
from roialign.ops.reference.sampling import AxisSamples, BoxRule

_VALUES_AT_ONCE = 1 << 24


def ps_roi_align(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    nan_if_empty: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C / (height * width), height, width], and the coverage [K] of each RoI."""
    pooled_hw, rule = (pooled_height, pooled_width), _rule(spatial_scale, sampling_ratio)
    parts = [pool(input, some, pooled_hw, rule) for some in rois.split(_rois_at_once(input.shape[1], pooled_hw))]
    output = torch.cat([_own(pooled) for pooled, _ in parts])
    if nan_if_empty:
        output[_empty(rois, input, pooled_hw, rule)] = torch.nan
    return output, torch.cat([coverage for _, coverage in parts])


def ps_roi_align_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features."""
    pooled_hw, rule = (grad.shape[2], grad.shape[3]), _rule(spatial_scale, sampling_ratio)
    channels = grad.shape[1] * pooled_hw[0] * pooled_hw[1]
    total = torch.zeros(images, channels, height, width, dtype=rois.dtype, device=rois.device)
    step = _rois_at_once(channels, pooled_hw)
    for some_grad, some in zip(grad.split(step), rois.split(step), strict=True):
        total += scatter(_in_all(some_grad.to(rois.dtype)), some, (images, height, width), rule)
    return total.to(grad.dtype)


def ps_roi_align_backward_boxes(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    rule, step = _rule(spatial_scale, sampling_ratio), _rois_at_once(input.shape[1], (grad.shape[2], grad.shape[3]))
    pairs = zip(grad.split(step), rois.split(step), strict=True)
    return torch.cat([correlate(_in_all(some_grad), input, some, rule) for some_grad, some in pairs])


def _rule(spatial_scale: float, sampling_ratio: int) -> BoxRule:
    return BoxRule.of_scale(spatial_scale, sampling_ratio, True)


def _rois_at_once(channels: int, pooled_hw: tuple[int, int]) -> int:
    return max(1, _VALUES_AT_ONCE // max(1, channels * pooled_hw[0] * pooled_hw[1]))


def _own(pooled: Tensor) -> Tensor:
    """A view of all channels in all bins, [K, C, ph, pw]: each bin's own channel, [K, C / (ph * pw), ph, pw]."""
    by_bin = pooled.unflatten(1, (pooled.shape[1] // pooled.shape[2:].numel(), *pooled.shape[2:]))
    own: Tensor = by_bin.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)
    return own


def _in_all(grad: Tensor) -> Tensor:
    """The transpose of `_own`: zeros in the bins that do not read a channel."""
    bins = grad.shape[2:]
    in_all = grad.new_zeros(grad.shape[0], grad.shape[1] * bins.numel(), *bins)
    _own(in_all).copy_(grad)
    return in_all


def _empty(rois: Tensor, input: Tensor, pooled_hw: tuple[int, int], rule: BoxRule) -> Tensor:
    """RoIs [K] without samples."""
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisSamples.of_boxes(y1, y2, pooled_hw[0], input.shape[2], rule.rows, rule)
    columns = AxisSamples.of_boxes(x1, x2, pooled_hw[1], input.shape[3], rule.columns, rule)
    return (rows.grid == 0) | (columns.grid == 0)
