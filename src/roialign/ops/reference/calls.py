"""Whole calls by a definition: some boxes and some channels of one image at a time, which changes no result.

That bounds the memory. Gradients are those that autograd finds through the definition, summed in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

VALUES_AT_ONCE = 1 << 22
_MOST_SAMPLES = 128  # of a bin along one axis, where that is a number that was given


@dataclass(frozen=True)
class Definition:
    """What an operator makes of boxes on one map."""

    pool: Callable[..., tuple[Tensor, ...]]
    """From planes [C, *cells], boxes [k, columns] without the batch index, what belongs to each box, bins and options:
    features [k, C, *bins], the coverage [k], and what else there is of the features' shape."""
    reads: Callable[..., Sequence[Tensor]]
    """From boxes, bins and options: how much [k] a bin reads at most along each axis, z or y first."""
    own_channels: bool = False
    """Whether each bin reads channels of its own."""
    separable: bool = False
    """Whether the axes are pooled one after the other."""


class Arguments(NamedTuple):
    """What an operator is told beside the features."""

    rois: Tensor
    """[K, 1 + columns], the batch index first, in the type that is computed in."""
    beside: tuple[Tensor, ...]
    """What belongs to each box, [K, ...]."""
    bins: tuple[int, ...]
    options: tuple[Any, ...]

    def of(self, members: Tensor) -> Arguments:
        return self._replace(rois=self.rois[members], beside=tuple(one[members] for one in self.beside))

    def pool(self, definition: Definition, planes: Tensor) -> tuple[Tensor, ...]:
        return definition.pool(planes, self.rois[:, 1:], *self.beside, *self.bins, *self.options)


class _Chunk(NamedTuple):
    """Some boxes of one image, and how many of its channels, and of those of the output, are taken at once."""

    image: int
    members: Tensor
    channels: int
    outputs: int


def forward(definition: Definition, input: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
    """What the operator gives for features [N, C, *cells]."""
    found, order = [], []
    for chunk in _chunks(definition, input.shape, arguments):
        some = arguments.of(chunk.members)
        planes = input[chunk.image] if len(input) else input.new_zeros(input.shape[1:])
        parts = [some.pool(definition, part) for part in planes.to(some.rois.dtype).split(chunk.channels)]
        features, (coverage, *_), *more = zip(*parts, strict=True)
        found.append((torch.cat(features, 1), coverage, *(torch.cat(one, 1) for one in more)))
        order.append(chunk.members)
    restore = torch.cat(order).argsort()
    results = [torch.cat(one)[restore] for one in zip(*found, strict=True)]
    return results[0].to(input.dtype), *results[1:]


def gradient_to_features(
    definition: Definition, grad: Tensor, arguments: Arguments, size: Sequence[int], input: Tensor | None = None
) -> Tensor:
    """[N, C, *cells], for `grad` [K, C, *bins] of the output; `size` is N and the cells.

    What is linear in the features has the same gradient for all of them; where it is not, `input` says which they were.
    """
    images, *cells = size
    channels = grad.shape[1] * (prod(arguments.bins) if definition.own_channels else 1)
    total = arguments.rois.new_zeros(images, channels, *cells)
    at = (total.new_zeros(()).expand(total.shape) if input is None else input).to(total.dtype)
    for chunk in _chunks(definition, total.shape, arguments) if total.numel() else ():
        some = arguments.of(chunk.members)
        of_image = (one[chunk.image].split(chunk.channels) for one in (total, at))
        upstream = grad[chunk.members].to(total.dtype).split(chunk.outputs, 1)
        for sums, planes, part in zip(*of_image, upstream, strict=True):
            pull_back = torch.func.vjp(partial(_features, definition, some), planes)[1]
            sums += pull_back(part)[0]
    return total.to(grad.dtype)


def gradient_to_boxes(definition: Definition, grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
    """To the rois [K, 1 + columns], whose batch index gets none, and to what belongs to each of them."""
    rois = arguments.rois
    totals = (torch.zeros_like(rois), *(torch.zeros_like(one, dtype=rois.dtype) for one in arguments.beside))
    for chunk in _chunks(definition, input.shape, arguments) if len(rois) else ():
        some = arguments.of(chunk.members)
        movable = (some.rois, *(one.to(rois.dtype) for one in some.beside))
        planes = input[chunk.image].to(rois.dtype).split(chunk.channels)
        for part, upstream in zip(planes, grad[chunk.members].to(rois.dtype).split(chunk.outputs, 1), strict=True):
            pull_back = torch.func.vjp(partial(_features_of_moved, definition, some, part), *movable)[1]
            for total, own in zip(totals, pull_back(upstream), strict=True):
                total[chunk.members] += own
    return totals


def _features(definition: Definition, arguments: Arguments, planes: Tensor) -> Tensor:
    return arguments.pool(definition, planes)[0]


def _features_of_moved(definition: Definition, arguments: Arguments, planes: Tensor, *moved: Tensor) -> Tensor:
    return _features(definition, arguments._replace(rois=moved[0], beside=moved[1:]), planes)


def _chunks(definition: Definition, input_shape: Sequence[int], arguments: Arguments) -> Iterator[_Chunk]:
    """All boxes, those of each image that read about as much together, in a fixed order; none make one chunk."""
    _, channels, *extents = input_shape
    unit = prod(arguments.bins) if definition.own_channels else 1
    sizes = _values(definition, extents, arguments)
    beside = sum(one[:1].numel() for one in arguments.beside)
    images = arguments.rois[:, 0].long()
    if not len(images):
        yield _Chunk(0, images, max(channels, 1), max(channels // unit, 1))
    for image in images.unique().tolist():
        members = (images == image).nonzero().flatten()
        ordered, order = sizes[members].sort()
        begin, ends = 0, ordered.tolist()
        for end, largest in enumerate(ends, start=1):
            following = ends[end] if end < len(ends) else VALUES_AT_ONCE
            if (following * max(channels, 1) + beside) * (end + 1 - begin) > VALUES_AT_ONCE:
                outputs = max(1, int(VALUES_AT_ONCE // (largest * (end - begin) * unit)))
                yield _Chunk(image, members[order[begin:end]], outputs * unit, outputs)
                begin = end


def _values(definition: Definition, extents: Sequence[int], arguments: Arguments) -> Tensor:
    """About how many values are made of each box and channel, float64 [K]."""
    bins, boxes = arguments.bins, arguments.rois[:, 1:]
    reads = [
        one.double().clamp(1, max(2 * extent + 2, _MOST_SAMPLES)) * count
        for one, extent, count in zip(definition.reads(boxes, *bins, *arguments.options), extents, bins, strict=True)
    ]
    if not definition.separable:
        return torch.stack(reads).prod(0)
    steps = [prod(bins[:axis]) * 2 * one * prod(extents[axis + 1 :]) for axis, one in enumerate(reads)]
    return torch.stack(steps).amax(0)
