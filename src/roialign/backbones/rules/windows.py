"""Convolution, pooling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from roialign.backbones.fields import FIRST, Field, Term, UnsupportedError, mapped, reduced, without_dims
from roialign.backbones.rules.call import Call, Rule
from roialign.backbones.taps import Taps, slid, uniform, window


def convolution(call: Call) -> Field:
    kernel, dims = call["weight"].shape[2:], len(call["weight"].shape) - 2
    if call["weight"].field is not None:
        raise UnsupportedError("its weight depends on the image")
    field = _channels_joined(call.field("input"), call["groups"], call.shape[-dims - 1], dims)
    stride, padding, dilation = (_each(call[name], dims) for name in ("stride", "padding", "dilation"))
    for axis in range(dims):
        dim = len(field.shape) - dims + axis
        results = call.shape[dim]
        options = (results, kernel[axis], stride[axis], padding[axis], dilation[axis])
        field = slid(field, dim, _transposed(*options) if call["transposed"] else window(*options))
    return field


def _transposed(results: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """A result reads the cells that a step of the kernel takes to it exactly."""
    reach = torch.arange(results)[:, None] + padding - torch.arange(kernel) * dilation
    return uniform(reach.div(stride, rounding_mode="floor"), 1 / stride, reach % stride == 0)


def _channels_joined(field: Field, groups: int, channels: int, dims: int) -> Field:
    """Each result's channel reads all channels of its group."""
    dim = len(field.shape) - dims - 1
    shape = list(field.shape)
    if all(term.values.shape[dim + 1] == 1 for axis in field.axes for term in axis):
        shape[dim] = channels
        return mapped(field, shape, lambda term: term)
    if groups == 1:
        joined = reduced(field, [dim], keepdim=True)
        shape[dim] = channels
        return replace(joined, shape=tuple(shape))
    split = mapped(
        field, [*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :]], lambda t: _split(t, dim, groups)
    )
    joined = without_dims(reduced(split, [dim + 1], keepdim=True), [dim + 1])
    shape[dim] = channels

    def repeated(term: Term) -> Term:
        values = term.values
        each = values if values.shape[dim + 1] == 1 else values.repeat_interleave(channels // groups, dim + 1)
        return replace(term, values=each)

    return mapped(joined, shape, repeated)


def _split(term: Term, dim: int, groups: int) -> Term:
    values = term.values
    sizes = (1, 1) if values.shape[dim + 1] == 1 else (groups, values.shape[dim + 1] // groups)
    return Term(values.unflatten(dim + 1, sizes), (*term.steps[:dim], 0.0, *term.steps[dim:]), term.stride)


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    """One number for each dimension; ATen takes a single one for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def pool(call: Call) -> list[Field]:
    field = call.field("self")
    dims = len(_each(call["kernel_size"], 1)) if "2d" not in call.name else 2
    dims = 3 if "3d" in call.name else dims
    kernel = _each(call["kernel_size"], dims)
    stride = _each(call.get("stride") or kernel, dims)
    padding, dilation = _each(call.get("padding", 0), dims), _each(call.get("dilation", 1), dims)
    for axis in range(dims):
        dim = len(field.shape) - dims + axis
        field = slid(field, dim, window(call.shape[dim], kernel[axis], stride[axis], padding[axis], dilation[axis]))
    return [field] * len(call.shapes)


def adaptive_pool(call: Call) -> list[Field]:
    field = call.field("self")
    dims = len(call["output_size"])
    for axis in range(dims):
        dim = len(field.shape) - dims + axis
        if call.shape[dim] == 1 and field.shape[dim] > 1:
            field = reduced(field, [dim], keepdim=True)
        else:
            field = slid(field, dim, _adaptive(field.shape[dim], call.shape[dim]))
    return [field] * len(call.shapes)


def _adaptive(size: int, results: int) -> Taps:
    start = torch.arange(results) * size // results
    end = (torch.arange(1, results + 1) * size + results - 1) // results
    index = start[:, None] + torch.arange(int((end - start).max()))
    used = index < end[:, None]
    return uniform(torch.where(used, index, start[:, None]), size / results, used)


def constant_pad(call: Call) -> Field:
    field = call.field("self")
    for dim, left, right in _pads(call, len(field.shape)):
        field = padded(field, dim, left, right)
    return field


def mirrored_pad(call: Call) -> Field:
    """Reflection and replication: positions go on, pixels are those of the cells that are repeated."""
    field = call.field("self")
    for dim, left, right in _pads(call, len(field.shape)):
        size = field.shape[dim]
        index = torch.arange(-left, size + right)
        last = size - 1
        source = last - (last - index.abs()).abs() if "reflection" in call.name else index.clamp(0, last)
        read = slid(field, dim, uniform(source[:, None], 1.0))
        field = _with_pixels_of(padded(field, dim, left, right), read)
    return field


def _with_pixels_of(field: Field, read: Field) -> Field:
    pairs = [list(zip(axis, other, strict=True)) for axis, other in zip(field.axes, read.axes, strict=True)]
    y, x = (
        tuple(replace(term, values=torch.cat([term.values[:FIRST], other.values[FIRST:]])) for term, other in pair)
        for pair in pairs
    )
    return Field(field.shape, (y, x))


def _pads(call: Call, dims: int) -> list[tuple[int, int, int]]:
    """(dimension, before, after), from ATen's list, which starts at the last dimension."""
    pads = call.get("pad") or call["padding"]
    pairs = [(dims - 1 - n, pads[2 * n], pads[2 * n + 1]) for n in range(len(pads) // 2)]
    return [pair for pair in pairs if pair[1] or pair[2]]


def padded(field: Field, dim: int, left: int, right: int) -> Field:
    """Cells of no pixels before and after; negative numbers cut cells off."""
    return slid(field, dim, uniform(torch.arange(-left, field.shape[dim] + right)[:, None], 1.0))


RULES: dict[str, Rule] = {
    "aten::convolution": convolution,
    "aten::_convolution": convolution,
    "aten::cudnn_convolution": convolution,
    "aten::max_pool2d_with_indices": pool,
    "aten::max_pool3d_with_indices": pool,
    "aten::max_pool2d": pool,
    "aten::avg_pool1d": pool,
    "aten::avg_pool2d": pool,
    "aten::avg_pool3d": pool,
    "aten::_adaptive_avg_pool2d": adaptive_pool,
    "aten::_adaptive_avg_pool3d": adaptive_pool,
    "aten::adaptive_avg_pool2d": adaptive_pool,
    "aten::adaptive_max_pool2d": adaptive_pool,
    "aten::adaptive_max_pool3d": adaptive_pool,
    "aten::constant_pad_nd": constant_pad,
    "aten::reflection_pad1d": mirrored_pad,
    "aten::reflection_pad2d": mirrored_pad,
    "aten::replication_pad1d": mirrored_pad,
    "aten::replication_pad2d": mirrored_pad,
}
