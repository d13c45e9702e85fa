"""roi_pool in pure PyTorch: the definition that the kernels are held against.

A bin is the largest of the cells that it reads, and 0 where it reads none. A NaN is larger than any number, as for
`torch.max`. With `legacy` it is torchvision's rule to the last: a value counts only if it is larger than the most
negative float32, which NaN and minus infinity are not; that number is the result where none is.

Maxima tell of each value which cell it is of, as row * W + column: the first one in row-major order, or -1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.ops.reference.cells import BoxBins, Chunk, Rounding

_VALUES_AT_ONCE = 1 << 22
_LOWEST = torch.tensor(torch.finfo(torch.float32).min)


def roi_pool(
    input: Tensor,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    legacy: bool,
    with_maxima: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width]; the coverage [K]; and, if asked for, the maxima, int32."""
    pooled_hw = pooled_height, pooled_width
    bins = BoxBins.of_rois(rois, (input.shape[2], input.shape[3]), pooled_hw, Rounding(spatial_scale, True, 0))
    output = input.new_zeros(len(rois), input.shape[1], *pooled_hw)
    maxima = torch.full_like(output, -1, dtype=torch.int32)
    lowest = _LOWEST.to(input.device, input.dtype)
    for chunk in bins.chunks():
        planes = input[chunk.image]
        cells, found = _find(planes, chunk, legacy)
        reads = chunk.is_read.flatten(3).any(3)
        nothing = torch.where(reads, lowest, torch.zeros_like(lowest))
        picked = torch.where(found, planes.flatten(1).gather(1, cells.flatten(1)).view_as(cells), nothing)
        output[chunk.members] = picked.transpose(0, 1)
        maxima[chunk.members] = torch.where(found, cells, -1).transpose(0, 1).int()
    return output, bins.coverage, maxima if with_maxima else maxima[:0]


def roi_pool_backward(grad: Tensor, maxima: Tensor, rois: Tensor, images: int, height: int, width: int) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features: each bin's goes to the cell of its largest value."""
    total = torch.zeros(images, grad.shape[1], height * width, dtype=rois.dtype, device=rois.device)
    found = (maxima >= 0) & (maxima < height * width)
    upstream = torch.where(found, grad, 0.0).to(rois.dtype)
    cells = torch.where(found, maxima, 0).long()
    of_image = rois[:, 0].long()
    for image in of_image.unique().tolist():
        own = of_image == image
        by_channel = (values[own].transpose(0, 1).flatten(1) for values in (cells, upstream))
        total[image].scatter_add_(1, *by_channel)
    grad_input: Tensor = total.unflatten(2, (height, width)).to(grad.dtype)
    return grad_input


def _find(planes: Tensor, chunk: Chunk, legacy: bool) -> tuple[Tensor, Tensor]:
    """For planes [C, H, W]: the first cell of each bin's largest value, and whether there is one, [C, k, ph, pw]."""
    read = chunk.is_read.flatten(3)
    cells = (chunk.rows * planes.shape[2] + chunk.columns).expand_as(chunk.is_read).flatten(3)
    shape = planes.shape[0], *read.shape[:3]
    if 0 in (*read.shape, *shape):
        return cells.new_zeros(shape), read.new_zeros(shape)
    found_cells, found_any = [], []
    for some in planes.split(max(1, _VALUES_AT_ONCE // read.numel())):
        values = some.flatten(1)[:, cells]  # [c, k, ph, pw, cells of a bin]
        counted = read & (values > _LOWEST.to(values.device, values.dtype)) if legacy else read.expand_as(values)
        largest = torch.where(counted, values, -torch.inf).amax(-1, keepdim=True)  # NaN where any is
        is_largest = counted & ((values == largest) | (values.isnan() & largest.isnan()))
        first = is_largest.int().argmax(-1, keepdim=True)
        found_cells.append(cells.expand_as(values).gather(-1, first).squeeze(-1))
        found_any.append(is_largest.any(-1))
    return torch.cat(found_cells), torch.cat(found_any)
