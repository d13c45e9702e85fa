"""How operators work under torch.func.vmap: one call for the whole batch, whatever is batched.

Where boxes are the same for all, the batch is folded into the channels. Else it is folded into the boxes and, where
maps differ as well, into the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MAPS = ("input", "inputs")
_OF_CHANNELS = (*_MAPS, "grad", "maxima")
_WITHOUT_CHANNELS = ("paste_masks", "paste_masks_backward")


_library = torch.library.Library("roialign", "IMPL")


class _Info(NamedTuple):
    batch_size: int


class _Batched(NamedTuple):
    """One argument, with the batch first where it is batched."""

    name: str
    value: Any
    is_batched: bool


def batch(name: str) -> None:
    """Register how an operator is batched, which its schema says by the names of the arguments."""
    op = getattr(torch.ops.roialign, name).default
    names = [one.name for one in op._schema.arguments]
    sums_channels = name.endswith("_backward_boxes") or name in _WITHOUT_CHANNELS

    def call(info: Any, in_dims: Sequence[Any], *values: Any) -> tuple[Any, Any]:
        arguments = [_Batched(*one) for one in map(_batch_first, names, values, in_dims)]
        if sums_channels or any(one.is_batched and one.name not in _OF_CHANNELS for one in arguments):
            found = op(*_fold_boxes(arguments, info.batch_size, name.endswith("_backward")))
            return _unfold(found, 0, info.batch_size)
        found = op(*(_fold_channels(one, info.batch_size) for one in arguments))
        if not isinstance(found, tuple):
            return _unfold(found, 1, info.batch_size)
        output, coverage, *others = found
        (output, *others), dims = _unfold((output, *others), 1, info.batch_size)
        return (output, coverage, *others), (dims[0], None, *dims[1:])

    torch.library.register_vmap(f"roialign::{name}", call)
    _library.impl(name, lambda *arguments: _of_gradients(call, arguments), "Batched")


def _of_gradients(rule: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """The same for `torch.autograd.grad(..., is_grads_batched=True)`, which has a vmap of its own."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    sizes: list[int] = []

    def take_apart(one: Any) -> tuple[Any, Any]:
        if isinstance(one, list):
            members, dims = zip(*map(take_apart, one), strict=True) if one else ((), ())
            return list(members), list(dims)
        if not isinstance(one, Tensor) or not torch._C._functorch.is_legacy_batchedtensor(one):
            return one, None
        value = torch._remove_batch_dim(one, level, 1, 0)
        sizes.append(value.shape[0])
        return value, 0

    def put_together(one: Tensor, dim: int | None) -> Tensor:
        return one if dim is None else torch._add_batch_dim(one.movedim(dim, 0).contiguous(), 0, level)

    values, in_dims = zip(*map(take_apart, arguments), strict=True)
    found, dims = rule(_Info(sizes[0]), in_dims, *values)
    return put_together(found, dims) if isinstance(found, Tensor) else type(found)(map(put_together, found, dims))


def _batch_first(name: str, value: Any, dim: Any) -> tuple[str, Any, bool]:
    if isinstance(dim, (list, tuple)) and any(one is not None for one in dim):
        size = next(one.shape[at] for one, at in zip(value, dim, strict=True) if at is not None)
        members = [
            one.expand(size, *one.shape) if at is None else one.movedim(at, 0)
            for one, at in zip(value, dim, strict=True)
        ]
        return name, members, True
    if isinstance(dim, int):
        return name, value.movedim(dim, 0), True
    return name, value, False


def _fold_channels(argument: _Batched, size: int) -> Any:
    """[B, rows, C, ...] as [rows, B * C, ...]."""
    if argument.name not in _OF_CHANNELS:
        return argument.value
    if isinstance(argument.value, list):
        return [_fold_channels(argument._replace(value=one), size) for one in argument.value]
    value = argument.value if argument.is_batched else argument.value.expand(size, *argument.value.shape)
    return value.movedim(0, 1).flatten(1, 2)


def _fold_boxes(arguments: list[_Batched], size: int, is_gradient: bool) -> list[Any]:
    """[B, K, ...] as [B * K, ...], and maps [B, N, ...] as [B * N, ...] where they have to be held apart."""
    maps_differ = is_gradient or any(one.is_batched for one in arguments if one.name in _MAPS)
    given = {one.name: one for one in arguments}
    folded: list[Any] = []
    for one in arguments:
        if one.name == "rois" and maps_differ:
            folded.append(_of_own_images(_rows(one, size), _images(given), size))
        elif one.name == "images":
            folded.append(one.value * size)
        elif (one.name in _MAPS and not maps_differ) or not isinstance(one.value, (Tensor, list)) or _is_numbers(one):
            folded.append(one.value)
        elif isinstance(one.value, list):
            folded.append([_rows(one._replace(value=member), size).flatten(0, 1) for member in one.value])
        else:
            folded.append(_rows(one, size).flatten(0, 1))
    return folded


def _rows(argument: _Batched, size: int) -> Tensor:
    value: Tensor = argument.value
    return value if argument.is_batched else value.expand(size, *value.shape)


def _is_numbers(argument: _Batched) -> bool:
    return isinstance(argument.value, list) and not isinstance(argument.value[0], Tensor)


def _images(given: dict[str, _Batched]) -> Any:
    """How many images there are of one member of the batch."""
    if "images" in given:
        return given["images"].value
    maps = next(given[name] for name in _MAPS if name in given)
    first = maps.value[0] if isinstance(maps.value, list) else maps.value
    return first.shape[1 if maps.is_batched else 0]


def _of_own_images(rois: Tensor, images: Any, size: int) -> Tensor:
    """RoIs [B, K, columns] as [B * K, columns], whose images are those of their member; what is none stays none."""
    index = rois[..., 0]
    first = torch.arange(size, device=rois.device, dtype=rois.dtype)[:, None] * images
    exists = (index >= 0) & (index < images)
    own = torch.where(exists, index + first, -1.0)
    return torch.cat([own[..., None], rois[..., 1:]], -1).flatten(0, 1)


def _unfold(found: Any, dim: int, size: int) -> tuple[Any, Any]:
    """Results with the batch as a dimension of its own, and which it is."""
    if isinstance(found, Tensor):
        return found.unflatten(dim, (size, found.shape[dim] // size)), dim
    results = [one.unflatten(dim, (size, one.shape[dim] // size)) for one in found]
    return type(found)(results), type(found)([dim] * len(results))
