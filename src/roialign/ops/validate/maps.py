"""Which features an RoI operator accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign import errors
from roialign.ops.validate.words import as_float, describe, is_dense, is_distributed

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def compute_dtype(input: Tensor) -> torch.dtype:
    """The type that an operator computes in: float64 for float64 features, float32 for all others."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def check_input(input: Any) -> None:
    """Raise unless `input` is a non-empty floating-point feature map [N, C, H, W]."""
    wanted = "RA306: expected a feature map [N, C, H, W] with H >= 1 and W >= 1; got"
    if not isinstance(input, Tensor):
        raise errors.FeatureMapError(f"{wanted} {describe(input)}. Pass a torch.Tensor.")
    _check_dense(input)
    if input.dim() == 3:
        raise errors.FeatureMapError(
            f"{wanted} {describe(input)}. One image without a batch axis: input[None]. Tokens [N, L, C] of a "
            "transformer: drop the class token, then tokens.transpose(1, 2).unflatten(2, (H, W))."
        )
    if input.dim() != 4 or input.shape[2] == 0 or input.shape[3] == 0:
        raise errors.FeatureMapError(f"{wanted} {describe(input)}. Look at the layer that made it.")
    _check_features_dtype(input)


def check_features(input: Any, layout: str) -> None:
    """Raise unless `input` is floating point and has the axes of `layout`, such as "N, C, L", none after C empty."""
    axes = layout.split(", ")
    if isinstance(input, Tensor):
        _check_dense(input)
    fits = isinstance(input, Tensor) and input.dim() == len(axes) and 0 not in input.shape[2:]
    if not fits:
        sizes = " and ".join(f"{axis} >= 1" for axis in axes[2:])
        hint = "Look at the layer that made it."
        if isinstance(input, Tensor) and input.dim() == len(axes) - 1:
            hint = "One image without a batch axis: input[None]."
        raise errors.FeatureMapError(f"RA306: expected features [{layout}] with {sizes}; got {describe(input)}. {hint}")
    _check_features_dtype(input)


def _check_dense(input: Tensor) -> None:
    if not is_dense(input):
        dense = "torch.nested.to_padded_tensor(input, 0.0)" if input.is_nested else "input.to_dense()"
        raise errors.DtypeError(f"RA505: expected dense features; got {describe(input)}. Use {dense}.")


def _check_features_dtype(input: Tensor) -> None:
    if input.dtype not in DTYPES:
        raise errors.DtypeError(
            "RA505: expected dense floating-point features (float64, float32, float16 or bfloat16); got "
            f"{describe(input)}. Use {as_float(input, 'input')}."
        )


def check_maps(maps: Sequence[Tensor], cells: Sequence[float]) -> None:
    """Raise unless `maps` are at least one map [N, C, H, W], all of one type, N and C, with four numbers for each."""
    if not maps or len(cells) != 4 * len(maps):
        raise errors.LevelError(
            f"RA401: expected at least one feature map, with a grid for each; got {len(maps)} maps and {len(cells)} "
            "numbers, which are four for each grid."
        )
    for one in maps:
        if one.dim() != 4 or one.dtype != maps[0].dtype or one.shape[:2] != maps[0].shape[:2]:
            raise errors.FeatureMapError(
                f"RA306: expected feature maps [N, C, H, W] of one type, with the same N and C; got {describe(one)} "
                f"and {describe(maps[0])}. Pool levels of different depth in separate calls."
            )


def check_local(tensors: Sequence[Tensor]) -> None:
    """Raise for DTensors, where several maps are pooled from."""
    if not torch.compiler.is_compiling() and any(map(is_distributed, tensors)):
        raise errors.DtypeError(
            "RA505: expected plain tensors to pool from several maps; got DTensors, which torch cannot shard for "
            "lists of maps. Pool locally, with whole maps and the boxes of this process: "
            "DTensor.from_local(pool(maps.to_local(), boxes.to_local(), ...), mesh, [Shard(0)]). roi_align and the "
            "other operators on one map take DTensors."
        )


def check_own_channels(input: Tensor, size_hw: Sequence[int], grad: Tensor | None = None) -> None:
    """Raise unless `input` has a channel for each bin of each channel of the output, and `grad` that many channels."""
    bins = size_hw[0] * size_hw[1]
    if input.shape[1] % bins != 0:
        raise errors.OutputSizeError(
            f"RA506: expected channels that are a multiple of the {size_hw[0]} x {size_hw[1]} = {bins} bins, because "
            f"each bin has its own channels; got {describe(input)}. Use an output_size that divides "
            f"{input.shape[1]}, or give the layer before it (channels of the output) * height * width channels."
        )
    if grad is None:
        return
    if grad.shape[1] * bins != input.shape[1] or grad.dtype != input.dtype or grad.device != input.device:
        raise errors.FeatureMapError(
            f"RA306: expected a gradient of {input.shape[1] // bins} channels in the type of the features, "
            f"{describe(input)}; got {describe(grad)}. It is made by autograd; call the public function."
        )
