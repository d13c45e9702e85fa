"""RoIAlign in pure PyTorch: the definition that the kernels are held against.

Differentiable to the features and to the boxes, on any device and for any floating type. Its results do
not depend on how the RoIs are cut into chunks, which only bounds its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.ops.reference.sampling import AxisSamples, Bilinear

_VALUES_AT_ONCE = 1 << 22
_ROIS_AT_ONCE = 16  # their graph is kept while their gradient is computed


def roi_align(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Pool [K, C, pooled_height, pooled_width] features and the coverage [K] of each RoI.

    `rois` [K, 5] holds image index, x1, y1, x2, y2 in the type that is computed in: float64 for float64
    features, float32 for all others.
    """
    features = input.to(rois.dtype)
    images = rois[:, 0].detach().long()
    pooled_hw, options = (pooled_height, pooled_width), (spatial_scale, sampling_ratio, aligned)
    outputs, coverages, order = [], [], []
    for image in images.unique().tolist():
        members = (images == image).nonzero().flatten()
        samples = axes_of_boxes(rois[members].detach(), input.shape[-2:], pooled_hw, *options)
        for chunk in _chunks(*samples, input.shape[1]):
            rows, columns = axes_of_boxes(rois[members[chunk]], input.shape[-2:], pooled_hw, *options)
            row_taps, column_taps = Bilinear.of_samples(rows), Bilinear.of_samples(columns)
            outputs.append(_pool(features[image], row_taps, column_taps, rows.grid * columns.grid))
            coverages.append(row_taps.share(rows) * column_taps.share(columns))
            order.append(members[chunk])
    if not order:
        return input.new_empty(0, input.shape[1], pooled_height, pooled_width), rois.new_empty(0)
    restore = torch.cat(order).argsort()
    return torch.cat(outputs)[restore].to(input.dtype), torch.cat(coverages)[restore].detach()


def axes_of_boxes(
    rois: Tensor,
    map_size_hw: torch.Size | tuple[int, int],
    pooled_hw: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[AxisSamples, AxisSamples]:
    """The row and the column samples of `rois` [K, 5] on a map of this size."""
    options = (spatial_scale, sampling_ratio, aligned)
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisSamples.of_boxes(y1, y2, pooled_hw[0], map_size_hw[0], *options)
    columns = AxisSamples.of_boxes(x1, x2, pooled_hw[1], map_size_hw[1], *options)
    return rows, columns


def _pool(features: Tensor, rows: Bilinear, columns: Bilinear, samples: Tensor) -> Tensor:
    """Average the bilinear samples of one image's `features` [C, H, W] in each bin, [K, C, ph, pw]."""
    on_map = rows.on_map[:, :, None, :, None] & columns.on_map[:, None, :, None, :]  # [K, ph, pw, gh, gw]
    ly, lx = rows.fraction[:, :, None, :, None], columns.fraction[:, None, :, None, :]
    hy, hx = 1 - ly, 1 - lx

    def pool(planes: Tensor) -> Tensor:
        def read(row: Tensor, column: Tensor) -> Tensor:
            cells = planes[:, row[:, :, None, :, None], column[:, None, :, None, :]]  # [C, K, ph, pw, gh, gw]
            return torch.where(on_map, cells, 0.0)  # where, not times: a NaN that is not read stays out

        total = hy * hx * read(rows.low, columns.low)
        total = total + hy * lx * read(rows.low, columns.high)
        total = total + ly * hx * read(rows.high, columns.low)
        total = total + ly * lx * read(rows.high, columns.high)
        return total.sum((-2, -1))

    channels_at_once = max(1, _VALUES_AT_ONCE // max(on_map.numel(), 1))
    pooled = torch.cat([pool(planes) for planes in features.split(channels_at_once)]).transpose(0, 1)
    return pooled / samples.clamp(min=1).to(pooled.dtype)[:, None, None, None]


def _chunks(rows: AxisSamples, columns: AxisSamples, channels: int) -> list[Tensor]:
    """Cut the RoIs into chunks of like size, each with a bounded number of samples to read."""
    bins = rows.pooled * columns.pooled * max(channels, 1)
    grids = rows.grid.clamp(1, 2 * rows.extent) * columns.grid.clamp(1, 2 * columns.extent)
    sizes, order = (grids * bins).sort()
    chunks, begin = [], 0
    for end, size in enumerate(sizes.tolist()[1:] + [_VALUES_AT_ONCE], start=1):
        if size * (end + 1 - begin) > _VALUES_AT_ONCE:
            chunks.append(order[begin:end])
            begin = end
    return chunks


def roi_align_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: float | int | bool
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, for `grad` [K, C, ph, pw] of the output."""
    with torch.enable_grad():
        input = rois.new_zeros(images, grad.shape[1], height, width).requires_grad_()
        output, _ = roi_align(input, rois.detach(), *grad.shape[2:], *options)
    (grad_input,) = torch.autograd.grad(output, input, grad.detach().to(rois.dtype))
    return grad_input.to(grad.dtype)


def roi_align_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: float | int | bool) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    grad_rois = []
    for grad_chunk, rois_chunk in zip(grad.detach().split(_ROIS_AT_ONCE), rois.split(_ROIS_AT_ONCE), strict=True):
        with torch.enable_grad():
            boxes = rois_chunk.detach().requires_grad_()
            output, _ = roi_align(input.detach().to(rois.dtype), boxes, *grad.shape[2:], *options)
        grad_rois += torch.autograd.grad(output, boxes, grad_chunk.to(rois.dtype))
    return torch.cat(grad_rois) if grad_rois else torch.zeros_like(rois)
