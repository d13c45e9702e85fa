"""Arguments in messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def describe(value: Any) -> str:
    """`value` in a message: shape and type of a tensor, type and value of anything else."""
    if isinstance(value, Tensor) and not is_dense(value):
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        return f"{kind} {str(value.dtype).removeprefix('torch.')} tensor of {value.dim()} axes"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}"
    if value is None:
        return "None"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, float, str)) else f"a {type(value).__name__}"


def is_dense(value: Tensor) -> bool:
    """Whether each of its values has a place of its own, by strides: not sparse, not nested."""
    return value.layout == torch.strided and not value.is_nested


def as_float(value: Tensor, name: str) -> str:
    """What to write to have `value` in a floating type."""
    return f"{name}.dequantize()" if value.is_quantized else f"{name}.float()"


def is_distributed(value: Tensor) -> bool:
    """Whether it is a DTensor; told without an import of those."""
    return type(value) is not Tensor and type(value).__module__.startswith("torch.distributed.")


def row_text(rois: Tensor, row: int) -> str:
    """A row of `rois` in a message."""
    return "[" + ", ".join(f"{value:g}" for value in rois[row].tolist()) + "]"
