"""RoIAlign in pure PyTorch: the definition that the kernels are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from roialign.ops.reference.bilinear import Upright, corners, total
from roialign.ops.reference.sampling import AxisRule


def roi_align(
    planes: Tensor, boxes: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """A bin is the mean of its samples."""
    rule = AxisRule.of_scale(spatial_scale, sampling_ratio, aligned)
    return on_grid(planes, boxes, height, width, rule.scale, rule.shift, *rule)


def on_grid(
    planes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    scale_y: float,
    shift_y: float,
    scale_x: float,
    shift_x: float,
    sampling_ratio: int,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    """`roi_align` on a grid that may differ between the axes: cell = coordinate * scale - shift."""
    rules = AxisRule(scale_y, shift_y, sampling_ratio, widen), AxisRule(scale_x, shift_x, sampling_ratio, widen)
    samples = Upright.of_boxes(boxes, planes.shape[1:], (height, width), rules)
    return total(planes, samples.rows, samples.columns).transpose(0, 1) / samples.per_bin[:, None], samples.coverage


def ps_roi_align(
    planes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    nan_if_empty: bool,
) -> tuple[Tensor, Tensor]:
    """Of `roi_align` with aligned=True each bin keeps the channel that is its own.

    Bin (p, q) of channel c of the output reads channel (c * height + p) * width + q of the features. A box without
    samples (of no size, under adaptive sampling) gives 0, or NaN with `nan_if_empty`, as torchvision's division by no
    samples does.
    """
    rule = AxisRule.of_scale(spatial_scale, sampling_ratio, aligned=True)
    samples = Upright.of_boxes(boxes, planes.shape[1:], (height, width), (rule, rule))
    pooled = total(planes, samples.rows, samples.columns).transpose(0, 1) / samples.per_bin[:, None]
    by_bin = pooled.unflatten(1, (len(planes) // (height * width), height, width))
    own = by_bin.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)
    if nan_if_empty:
        own = torch.where(samples.is_empty[:, None, None, None], torch.nan, own)
    return own, samples.coverage


def roi_align_max(
    planes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    by_corner: bool,
) -> tuple[Tensor, Tensor]:
    """A bin is its largest sample; samples off the map are 0 and count.

    With `by_corner` the largest product of a cell and its weight counts, not the largest sum of a sample's four: so
    ONNX defines it.
    """
    rule = AxisRule.of_scale(spatial_scale, sampling_ratio, aligned)
    samples = Upright.of_boxes(boxes, planes.shape[1:], (height, width), (rule, rule))
    products = torch.stack([one.weight * one.of(planes) for one in corners(samples.rows, samples.columns)], -1)
    candidates = products if by_corner else products.sum(-1, keepdim=True)
    read = samples.rows.read & samples.columns.read
    if not read.numel():
        return planes.new_zeros(len(boxes), len(planes), height, width), samples.coverage
    largest = torch.where(read[..., None], candidates, -torch.inf).flatten(4).max(4).values
    seen = read.flatten(3).sum(3)
    some_off = seen < samples.per_bin
    counts = (seen > 0) & ~(some_off & (largest < 0))
    return torch.where(counts, largest, 0.0).transpose(0, 1), samples.coverage
