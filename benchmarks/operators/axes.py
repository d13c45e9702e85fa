"""roi_align_3d and roi_align_1d, which no installed peer has: held against how one would write them by hand.

The volume is held against pooling every slice with roi_align and averaging the slices of each bin, the sequence against
torchvision's roi_align on a map of one row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import roialign
from benchmarks.implementations import ROIALIGN
from benchmarks.workloads import seeded_randn

from .comparison import REFERENCE, Comparison, Pool, by_reference
from .served import reference

_BY_SLICES, _ONE_ROW = "roi_align of all slices", "torchvision.roi_align of one row"
_VOLUMES = {  # channels, cells (z, y, x), boxes, sides in cells, bins
    "CT": (64, (32, 64, 64), 128, (6, 24), (7, 7, 7)),
    "video": (64, (16, 64, 64), 128, (4, 14), (4, 7, 7)),
}
_SEQUENCE = (2, 512, 2000, 500)  # sequences, channels, cells, segments
_BINS, _RATIO = 16, 2


def roi_align_3d(quick: bool) -> Iterator[Comparison]:
    for name, (channels, size_dhw, count, sides, bins) in _VOLUMES.items():
        for few in (True,) if quick else (True, False):
            of_channels, boxes = (4, 16) if few else (channels, count)
            volume = seeded_randn((1, of_channels, *size_dhw), seed=0)
            rois = _boxes_in(size_dhw, boxes, sides)
            size = "x".join(map(str, (of_channels, *size_dhw)))
            description = f"{size} cells, {boxes} boxes of {sides[0]} to {sides[1]}, {'x'.join(map(str, bins))} bins"
            other = REFERENCE if few else _BY_SLICES
            pools = _volume_pools(rois, size_dhw, bins)
            yield Comparison(
                f"{name}, shrunk" if few else name, description, f"sampling_ratio {_RATIO}", "NCHW", volume,
                {ROIALIGN: pools[ROIALIGN], other: pools[other]}, (other,),
            )  # fmt: skip


def _boxes_in(size_dhw: tuple[int, int, int], count: int, sides: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size_xyz = torch.tensor(size_dhw[::-1], dtype=torch.float32)
    lengths = sides[0] + (sides[1] - sides[0]) * torch.rand(count, 3, generator=generator)
    corners = torch.rand(count, 3, generator=generator) * (size_xyz - lengths).clamp(min=0)
    return torch.cat([torch.zeros(count, 1), corners, corners + lengths], 1)


def _volume_pools(rois: Tensor, size_dhw: tuple[int, int, int], bins: tuple[int, int, int]) -> dict[str, Pool]:
    options = (1.0, 1.0, 1.0, _RATIO, True)
    return {
        ROIALIGN: lambda volume: roialign.roi_align_3d(volume, rois, bins, 1.0, _RATIO, True),
        _BY_SLICES: lambda volume: _by_slices(volume, rois, bins),
        REFERENCE: by_reference(
            lambda volume: reference.roi_align_3d(volume, rois, *bins, *options)[0],
            lambda grad, _: reference.roi_align_3d_backward(grad, rois, 1, *size_dhw, *options),
        ),
    }


def _by_slices(volume: Tensor, rois: Tensor, bins: tuple[int, int, int]) -> Tensor:
    """Every slice pooled as a map, then each bin's linear samples along z averaged."""
    channels, depth = volume.shape[1:3]
    flat = roialign.roi_align(volume.flatten(1, 2), rois[:, [0, 1, 2, 4, 5]], bins[1:], 1.0, _RATIO, True)
    length = (rois[:, 6] - rois[:, 3]) / bins[0]
    steps = torch.arange(bins[0] * _RATIO) / _RATIO + 0.5 / _RATIO
    z = (rois[:, 3:4] - 0.5 + steps * length[:, None]).clamp(0, depth - 1)
    weights = (1 - (z[..., None] - torch.arange(depth)).abs()).clamp(min=0)
    weights = weights.unflatten(1, (bins[0], _RATIO)).mean(2)
    return torch.einsum("kpz,kczyx->kcpyx", weights, flat.unflatten(1, (channels, depth)))


def roi_align_1d(quick: bool) -> Iterator[Comparison]:
    sequences, channels, length, count = (2, 8, 200, 20) if quick else _SEQUENCE
    signal = seeded_randn((sequences, channels, length), seed=0)
    generator = torch.Generator().manual_seed(1)
    starts = torch.rand(count, generator=generator) * length * 0.7
    ends = starts + 5 + torch.rand(count, generator=generator) * length * 0.25
    segments = torch.stack([torch.arange(count) % sequences, starts, ends], 1)
    rois = torch.stack([segments[:, 0], starts, 0 * starts, ends, 0 * starts + 1], 1)
    pools: dict[str, Pool] = {
        ROIALIGN: lambda signal: roialign.roi_align_1d(signal, segments, _BINS, 1.0, _RATIO, True),
        _ONE_ROW: lambda signal: torchvision.ops.roi_align(
            signal[:, :, None], rois, (1, _BINS), 1.0, _RATIO, True
        )[:, :, 0],
    }  # fmt: skip
    description = f"{sequences}x{channels}x{length} cells, {count} segments, {_BINS} bins"
    yield Comparison("sequences", description, f"sampling_ratio {_RATIO}", "NCHW", signal, pools, (_ONE_ROW,))
