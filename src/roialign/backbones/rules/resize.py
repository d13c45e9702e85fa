"""Interpolation, with the exact weights of each mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roialign.backbones.fields import Field
from roialign.backbones.rules.call import Call, Rule
from roialign.backbones.taps import Taps, slid, uniform

_NO_WEIGHT = 1e-6
_CUBIC = -0.75  # Keys' a, as ATen has it
_CUBIC_ANTIALIASED = -0.5


def upsample(call: Call) -> Field:
    field = call.field("self") if "self" in call.arguments else call.field("input")
    dims = len(field.shape) - 2
    for axis in range(dims):
        dim = 2 + axis
        size, results = field.shape[dim], call.shape[dim]
        ratio = _ratio(call, axis, dims, size, results)
        if size != results or ratio != 1:
            field = slid(field, dim, _taps(call.name, size, results, ratio, bool(call.get("align_corners", False))))
    return field


def _ratio(call: Call, axis: int, dims: int, size: int, results: int) -> float:
    """Cells of the input per cell of the result."""
    if call.get("align_corners", False):
        return (size - 1) / (results - 1) if results > 1 else 0.0
    scales = call.get("scale_factors") or [call.get(f"scales_{'dhw'[3 - dims + axis]}")]
    if dims == 1 and call.get("scales"):
        scales = [call["scales"]]
    scale = scales[axis] if len(scales) == dims else scales[0]
    return 1 / scale if scale else size / results


def _taps(name: str, size: int, results: int, ratio: float, align_corners: bool) -> Taps:
    step = ratio or float(size)
    if "nearest" in name:
        half = 0.5 if "exact" in name else 0.0
        source = (
            (torch.arange(results, dtype=torch.float32) + half) * torch.tensor(ratio, dtype=torch.float32)
        ).floor()
        return uniform(source.long().clamp(max=size - 1)[:, None], step)
    place = torch.arange(results, dtype=torch.float64)
    if name.endswith("_aa"):
        index, weights = _antialiased((place + 0.5) * ratio, ratio, size, cubic="bicubic" in name)
    elif "bicubic" in name:
        source = place * ratio if align_corners else (place + 0.5) * ratio - 0.5
        index = source.floor().long()[:, None] + torch.arange(-1, 3)
        weights = _cubic((source[:, None] - index).abs(), _CUBIC)
    else:
        source = place * ratio if align_corners else ((place + 0.5) * ratio - 0.5).clamp(min=0)
        index = source.floor().long()[:, None] + torch.arange(2)
        weights = 1 - (source[:, None] - index).abs()
    return Taps(index.clamp(0, size - 1), torch.where(weights.abs() < _NO_WEIGHT, 0.0, weights), step)


def _antialiased(centre: Tensor, ratio: float, size: int, cubic: bool) -> tuple[Tensor, Tensor]:
    """The filter stretched to the cells that a result covers."""
    stretch = max(ratio, 1.0)
    support = (2 if cubic else 1) * stretch
    start = (centre - support + 0.5).long().clamp(min=0)
    end = (centre + support + 0.5).long().clamp(max=size)
    index = start[:, None] + torch.arange(math.ceil(2 * support) + 2)
    distance = ((index + 0.5 - centre[:, None]) / stretch).abs()
    weights = _cubic(distance, _CUBIC_ANTIALIASED) if cubic else (1 - distance).clamp(min=0)
    weights = torch.where(index < end[:, None], weights, 0.0)
    return index, weights / weights.sum(-1, keepdim=True)


def _cubic(distance: Tensor, a: float) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


RULES: dict[str, Rule] = {
    f"aten::{name}": upsample
    for name in (
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "upsample_linear1d",
        "upsample_bilinear2d",
        "upsample_trilinear3d",
        "upsample_bicubic2d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
    )
}
