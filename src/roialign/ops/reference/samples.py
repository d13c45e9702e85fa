"""Pooling from samples that lie anywhere on a map, in pure PyTorch: for RoIs that do not factor per axis.

An operator says where the samples of its RoIs lie and what each weighs in its bin; this file reads the map there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.ops.reference.sampling import Cells, corners

VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Samples:
    """The samples of some RoIs of one image; tensors broadcast to [k, ph, pw, gy, gx]."""

    image: int
    members: Tensor  # [k], their rows among all RoIs
    reads: Tensor  # bool; elsewhere nothing is read
    rows: Cells
    columns: Cells
    weight: Tensor  # of each sample in its bin


@dataclass(frozen=True)
class Slopes:
    """What moves the sum of output times upstream gradient, for each sample [k, ph, pw, gy, gx]."""

    by_weight: Tensor
    by_row: Tensor
    by_column: Tensor


def chunks(images: Tensor, sizes: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Cut the RoIs of each image into chunks of like size, each with a bounded number of values to read."""
    for image in images.unique().tolist():
        members = (images == image).nonzero().flatten()
        ordered, order = sizes[members].sort()
        begin = 0
        for end, size in enumerate([*ordered.tolist()[1:], VALUES_AT_ONCE], start=1):
            if size * (end + 1 - begin) > VALUES_AT_ONCE:
                yield image, members[order[begin:end]]
                begin = end


def channels_at_once(samples: Tensor) -> int:
    return max(1, VALUES_AT_ONCE // max(samples.numel(), 1))


def pool(input: Tensor, parts: Iterable[Samples], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Features of `shape` [K, C, ph, pw]: the weighted sums of the samples of each bin."""
    features = input.to(dtype)
    pooled, order = [features.new_zeros(0, *shape[1:])], []
    for samples in parts:
        step = channels_at_once(samples.reads)
        planes = [_sum(planes, samples) for planes in features[samples.image].split(step)]
        pooled.append(torch.cat(planes).transpose(0, 1))
        order.append(samples.members)
    restore = torch.cat(order).argsort() if order else torch.empty(0, dtype=torch.int64)
    return torch.cat(pooled)[restore.to(features.device)].to(input.dtype)


def _sum(planes: Tensor, samples: Samples) -> Tensor:
    value = sum(
        weight * torch.where(samples.reads, planes[:, row, column], 0.0)  # not times: a NaN that is not read stays out
        for row, column, weight in corners(samples.rows, samples.columns)
    )
    return (value * samples.weight).sum((-2, -1))


def scatter(grad: Tensor, parts: Iterable[Samples], size_nhw: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Gradient [N, C, H, W] to the features."""
    images, height, width = size_nhw
    grad_input = grad.new_zeros(images, grad.shape[1], height, width, dtype=dtype)
    for samples in parts:
        upstream = grad[samples.members].to(dtype).transpose(0, 1)  # [C, k, ph, pw]
        step, reads = channels_at_once(samples.reads), samples.reads
        planes = grad_input[samples.image].flatten(1)
        for grad_planes, values in zip(planes.split(step), upstream.split(step), strict=True):
            for row, column, weight in corners(samples.rows, samples.columns):
                cells = (row * width + column).expand_as(reads)[reads]
                shares = values[..., None, None] * (weight * samples.weight)
                grad_planes.index_add_(1, cells, shares[:, reads])
    return grad_input.to(grad.dtype)


def slopes(input: Tensor, grad: Tensor, samples: Samples) -> Slopes:
    """How the sum of output times `grad` [K, C, ph, pw] changes with each sample's weight and position."""
    dtype = samples.weight.dtype
    reads, ly, lx = samples.reads, samples.rows.fraction, samples.columns.fraction
    upstream = grad[samples.members].to(dtype).transpose(0, 1)[..., None, None]
    step = channels_at_once(reads)
    top_left, top_right, bottom_left, bottom_right = (upstream.new_zeros(reads.shape) for _ in range(4))
    for planes, values in zip(input[samples.image].to(dtype).split(step), upstream.split(step), strict=True):
        for total, (row, column, _) in zip(
            (top_left, top_right, bottom_left, bottom_right), corners(samples.rows, samples.columns), strict=True
        ):
            total += (values * torch.where(reads, planes[:, row, column], 0.0)).sum(0)
    top, bottom = top_left.lerp(top_right, lx), bottom_left.lerp(bottom_right, lx)
    left, right = top_left.lerp(bottom_left, ly), top_right.lerp(bottom_right, ly)
    return Slopes(
        by_weight=top.lerp(bottom, ly),
        by_row=torch.where(samples.rows.free, (bottom - top) * samples.weight, 0.0),
        by_column=torch.where(samples.columns.free, (right - left) * samples.weight, 0.0),
    )
