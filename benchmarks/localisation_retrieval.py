"""Finding the place of a box again in a shifted, resized or mirrored copy of its photograph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

import roialign

from .networks import Network
from .photographs import as_tensor, square

BASE_PX, SIDE_PX = 480, 320
QUERIES = 16
STEPS_PER_STRIDE, REACH_IN_STRIDES = 8, 1.0
SIDES_IN_STRIDES = (2.0, 3.0)
MARGIN_IN_STRIDES = 1.0  # to the border, so that all four offsets read within the map
BINS = 3


@dataclass(frozen=True)
class Copy:
    """How the copy differs: its pixels per pixel of the photograph, and whether it is mirrored left to right."""

    name: str
    scale: float
    mirrored: bool = False


COPIES = (
    Copy("shifted", 1.0),
    Copy("shifted, 0.7 times the size", 0.7),
    Copy("shifted, 1.4 times the size", 1.4),
    Copy("shifted and mirrored", 1.0, mirrored=True),
)


@dataclass(frozen=True)
class Retrieval:
    """The mean over the queries of one photograph."""

    copy: str
    stride: float
    offset: str
    photograph: int
    top1: float
    error_px: float


def pool(features: Tensor, boxes: Tensor, stride: float, offset_px: tuple[float, float], bins: int) -> Tensor:
    """`boxes` [K, 4] as vectors [K, C * bins²]; cell 0 of `features` [1, C, h, w] is centred at `offset_px` (y, x)."""
    y, x = (stride / 2 - offset for offset in offset_px)
    shifted = (boxes + boxes.new_tensor([x, y, x, y])).float()
    pooled = roialign.roi_align(features, [shifted], bins, spatial_scale=1 / stride, sampling_ratio=2, aligned=True)
    return pooled.flatten(1)


def retrieve(
    network: Network,
    photographs: Sequence[Image.Image],
    offsets_of: Sequence[Mapping[str, Mapping[str, tuple[float, float]]]],
    seed: int,
) -> Iterator[Retrieval]:
    """Each photograph, copy, stride and offset; `offsets_of` has for each photograph, offset and level the pixels."""
    generator = torch.Generator().manual_seed(seed)
    for index, photograph in enumerate(photographs):
        print(f"photograph {index + 1} of {len(photographs)}", flush=True)
        base = square(photograph, BASE_PX)
        corner = (BASE_PX - SIDE_PX) // 2
        original = _maps(network, base.crop((corner, corner, corner + SIDE_PX, corner + SIDE_PX)))
        for copy in COPIES:
            origin = _origin(copy, generator)
            changed = base.resize(
                (SIDE_PX, SIDE_PX),
                Image.Resampling.BICUBIC,
                (*origin, *(begin + SIDE_PX / copy.scale for begin in origin)),
            )
            if copy.mirrored:
                changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            maps = _maps(network, changed)
            for level, features in original.items():
                stride = float(level)
                queries = _queries(copy, corner, origin, stride, generator)
                for offset, by_level in offsets_of[index].items():
                    found = _search(features, maps[level], queries, copy, stride, by_level[level])
                    yield Retrieval(copy.name, stride, offset, index, *found)


def _maps(network: Network, photograph: Image.Image) -> dict[str, Tensor]:
    image = (as_tensor(photograph) - 0.5) / 0.5
    return {level: map_ - map_.mean((2, 3), keepdim=True) for level, map_ in network.maps_of(image[None]).items()}


def _origin(copy: Copy, generator: torch.Generator) -> tuple[float, float]:
    """The copy's upper left corner in the photograph, (x, y); in copies of equal size no multiple of 8 away."""
    if copy.scale != 1:
        room = BASE_PX - SIDE_PX / copy.scale
        x, y = (room * (0.4 + 0.2 * torch.rand(2, generator=generator))).tolist()
        return x, y
    shifts = [shift for shift in range(-28, 29) if shift % 8 not in (0, 1, 7)]
    drawn = torch.randint(len(shifts), (2,), generator=generator).tolist()
    return float(80 + shifts[drawn[0]]), float(80 + shifts[drawn[1]])


def _queries(
    copy: Copy, corner: float, origin: tuple[float, float], stride: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Boxes in the original and the same in the copy, [QUERIES, 4] each, all that is read of them within the maps."""
    margin = MARGIN_IN_STRIDES * stride
    kept: list[tuple[Tensor, Tensor]] = []
    while len(kept) < QUERIES:
        low, high = (side * stride / min(copy.scale, 1.0) ** 0.5 for side in SIDES_IN_STRIDES)
        if copy.scale > 1:
            low, high = low / copy.scale, high / copy.scale
        sides = low + (high - low) * torch.rand(2, generator=generator, dtype=torch.float64)
        begin = margin + (SIDE_PX - 2 * margin - sides) * torch.rand(2, generator=generator, dtype=torch.float64)
        box = torch.cat([begin, begin + sides])
        same = (box + corner - torch.tensor([*origin, *origin], dtype=torch.float64)) * copy.scale
        if copy.mirrored:
            same = torch.stack([SIDE_PX - same[2], same[1], SIDE_PX - same[0], same[3]])
        reach = margin + REACH_IN_STRIDES * stride
        if float(same.min()) >= reach and float(same.max()) <= SIDE_PX - reach:
            kept.append((box, same))
    originals, copies = zip(*kept, strict=True)
    return torch.stack(originals), torch.stack(copies)


def _search(
    features: Tensor,
    changed: Tensor,
    queries: tuple[Tensor, Tensor],
    copy: Copy,
    stride: float,
    offset_px: tuple[float, float],
) -> tuple[float, float]:
    """The share of queries whose best candidate is the true place, and the mean distance from it in pixels."""
    originals, truths = queries
    steps = torch.arange(-STEPS_PER_STRIDE, STEPS_PER_STRIDE + 1, dtype=torch.float64)
    steps = steps * REACH_IN_STRIDES * stride / STEPS_PER_STRIDE
    y, x = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    candidates = truths[:, None] + torch.stack([x, y, x, y], dim=1)
    wanted = pool(features, originals, stride, offset_px, BINS)
    if copy.mirrored:
        wanted = wanted.view(QUERIES, -1, BINS, BINS).flip(-1).flatten(1)
    vectors = pool(changed, candidates.flatten(0, 1), stride, offset_px, BINS).view(QUERIES, len(x), -1)
    best = ((vectors @ wanted[:, :, None])[..., 0] / vectors.norm(dim=2)).argmax(1)  # the cosine, but for a factor
    distances = torch.hypot(x[best], y[best])
    return float((distances == 0).double().mean()), float(distances.mean())
