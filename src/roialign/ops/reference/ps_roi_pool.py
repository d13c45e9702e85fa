"""ps_roi_pool in pure PyTorch: the mean of the cells of each bin, in a channel of its own.

Bin (p, q) of channel c of the output reads channel (c * height + p) * width + q of the features. Bins do not reach
the last row and the last column of the map, as torchvision has it, unless `with_last`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.ops.reference.cells import BoxBins, Rounding


def ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    with_last: bool,
    with_last_in_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C / (height * width), height, width], and the coverage [K] of each RoI.

    `with_last_in_gradient` is what the gradient takes for `with_last`; it changes nothing here.
    """
    pooled_hw = pooled_height, pooled_width
    bins = _bins(rois, (input.shape[2], input.shape[3]), pooled_hw, spatial_scale, with_last)
    channels = input.shape[1] // (pooled_height * pooled_width)
    output = rois.new_zeros(len(rois), channels, *pooled_hw)
    by_bin = input.to(rois.dtype).unflatten(1, (channels, *pooled_hw))
    p, q = _own_bins(pooled_hw, rois.device)
    for chunk in bins.chunks():
        cells = by_bin[chunk.image][:, p, q, chunk.rows, chunk.columns]  # [C, k, ph, pw, gh, gw]
        output[chunk.members] = torch.where(chunk.is_read, cells, 0.0).sum((-2, -1)).transpose(0, 1)
    return (output / bins.counts[:, None].clamp(min=1)).to(input.dtype), bins.coverage


def ps_roi_pool_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, spatial_scale: float, with_last: bool
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, where bins are those of `with_last`."""
    pooled_hw = grad.shape[2], grad.shape[3]
    bins = _bins(rois, (height, width), pooled_hw, spatial_scale, with_last)
    upstream = grad.to(rois.dtype) / bins.counts[:, None].clamp(min=1)
    total = rois.new_zeros(images, grad.shape[1], *pooled_hw, height, width)
    p, q = _own_bins(pooled_hw, rois.device)
    for chunk in bins.chunks():
        cells = ((p * pooled_hw[1] + q) * height + chunk.rows) * width + chunk.columns
        shares = upstream[chunk.members].transpose(0, 1)[..., None, None].expand(-1, *chunk.is_read.shape)
        planes = total[chunk.image].flatten(1)
        planes.index_add_(1, cells[chunk.is_read], shares[:, chunk.is_read])
    return total.flatten(1, 3).to(grad.dtype)


def _bins(
    rois: Tensor, size_hw: tuple[int, int], pooled_hw: tuple[int, int], spatial_scale: float, with_last: bool
) -> BoxBins:
    return BoxBins.of_rois(rois, size_hw, pooled_hw, Rounding(spatial_scale, False, 0 if with_last else 1))


def _own_bins(pooled_hw: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The row and the column of each bin, to index its own channel with, broadcast to [k, ph, pw, gh, gw]."""
    p, q = (torch.arange(count, device=device) for count in pooled_hw)
    return p[:, None, None, None], q[:, None, None]
