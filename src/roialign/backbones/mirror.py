"""How alike the features of a box and of its mirror image are, by the offset that is assumed for the map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.geometry import FeatureGrid
from roialign.ops import registered as registered  # registers the operator that is called below
from roialign.ops.calls import unseen

BINS = 3
SIDES_IN_CELLS = (2.0, 5.0)
STEPS_PER_STRIDE = 16

_op: Any = torch.ops.roialign
_DIM_OF_AXIS = (-2, -1)


@dataclass(frozen=True)
class Sweep:
    """The offsets that were tried along one axis, in pixels, and the agreement of each image at each.

    `offsets` is float64 [O], in order; `agreements` float64 [images, O]; `chance` float64 [images], the agreement of
    boxes with the mirror images of other boxes.
    """

    offsets: Tensor
    agreements: Tensor
    chance: Tensor


def sweep(
    maps_of: Callable[[Tensor], Mapping[str, Tensor]],
    grids: Mapping[str, FeatureGrid],
    images: Iterable[Tensor],
    image_size: tuple[int, int],
    boxes_per_image: int,
    seed: int,
) -> dict[str, tuple[Sweep | str, Sweep | str]]:
    """For each level the sweeps of y and x, or why there is none.

    `maps_of` takes [3, C, H, W], an image and its two mirror images, to maps [3, C, h, w] for each name of `grids`.
    """
    generator = torch.Generator().manual_seed(seed)
    plans = {name: _plan(grid, image_size) for name, grid in grids.items()}
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in grids}
    for image in images:
        maps = maps_of(torch.stack([image, image.flip(-2), image.flip(-1)]))
        for name, plan in plans.items():
            if isinstance(plan, str):
                continue
            features = _checked(maps[name], name)
            boxes = plan.draw_boxes(boxes_per_image, generator)
            for axis in (0, 1):
                found[name][axis].append(plan.agreements(features[0], features[1 + axis], boxes, axis))
    return {
        name: (plan, plan) if isinstance(plan, str) else (plan.sweep(0, found[name][0]), plan.sweep(1, found[name][1]))
        for name, plan in plans.items()
    }


@dataclass(frozen=True)
class _Plan:
    grid: FeatureGrid
    image_size: tuple[int, int]
    offsets_yx: tuple[Tensor, Tensor]
    inside_yx: tuple[tuple[float, float], tuple[float, float]]

    def draw_boxes(self, count: int, generator: torch.Generator) -> Tensor:
        """Boxes [count, 4], xyxy, that are read within the map at every offset, mirrored or not."""
        corners = []
        for (first, last), stride in zip(self.inside_yx, self.grid.stride_yx, strict=True):
            shortest, longest = (min(cells * stride, last - first) for cells in SIDES_IN_CELLS)
            share = torch.rand(2, count, generator=generator, dtype=torch.float64)
            side = shortest + share[0] * (longest - shortest)
            begin = first + share[1] * (last - first - side)
            corners.append((begin, begin + side))
        (y1, y2), (x1, x2) = corners
        return torch.stack([x1, y1, x2, y2], dim=1)

    def agreements(self, features: Tensor, mirrored: Tensor, boxes: Tensor, axis: int) -> Tensor:
        """The mean cosine over `boxes` at each offset along `axis`, with their own and with other mirror images."""
        features, mirrored = (_smoothed(one, _DIM_OF_AXIS[axis]) for one in (features, mirrored))
        low, high = (1, 3) if axis == 0 else (0, 2)
        mirrored_boxes = boxes.clone()
        mirrored_boxes[:, low] = self.image_size[axis] - boxes[:, high]
        mirrored_boxes[:, high] = self.image_size[axis] - boxes[:, low]
        means = []
        for offset in self.offsets_yx[axis].tolist():
            own = _centred(self._pool(features, boxes, axis, offset))
            image = _centred(self._pool(mirrored, mirrored_boxes, axis, offset).flip(_DIM_OF_AXIS[axis]))
            pairs = (image, image.roll(1, 0))
            means.append(torch.stack([torch.cosine_similarity(own, other).double().mean() for other in pairs]))
        return torch.stack(means).cpu()  # [O, 2]

    def sweep(self, axis: int, agreements: Sequence[Tensor]) -> Sweep:
        """The agreements of all images as a sweep."""
        own, others = torch.stack(list(agreements)).unbind(2)
        return Sweep(self.offsets_yx[axis], own, others.mean(1))

    def _pool(self, features: Tensor, boxes: Tensor, axis: int, offset: float) -> Tensor:
        """`boxes` read from `features` [C, h, w], the offset along `axis` as given, the other one half a stride."""
        stride_y, stride_x = self.grid.stride_yx
        offset_y, offset_x = (offset, stride_x / 2) if axis == 0 else (stride_y / 2, offset)
        offsets = boxes.new_tensor([offset_x, offset_y, offset_x, offset_y])
        cells = (boxes - offsets) / boxes.new_tensor([stride_x, stride_y, stride_x, stride_y]) + 0.5
        rois = torch.cat([torch.zeros(len(boxes), 1), cells.float()], dim=1).to(features.device)
        with unseen():
            pooled: Tensor = _op.roi_align(features[None], rois, BINS, BINS, 1.0, 2, True)[0]
        return pooled


def _plan(grid: FeatureGrid, image_size: tuple[int, int]) -> _Plan | str:
    offsets, inside = [], []
    for axis in (0, 1):
        stride, cells, length = grid.stride_yx[axis], grid.size_hw[axis], image_size[axis]
        tried = _offsets(stride, None if grid.structural_offset_yx is None else grid.structural_offset_yx[axis])
        first = max(float(tried[-1]), length - (cells - 1) * stride - float(tried[0]))
        if length - 2 * first < SIDES_IN_CELLS[0] * stride:
            return f"a map of {cells} cells is too small to sweep: calibrate with larger images"
        offsets.append(tried)
        inside.append((first, length - first))
    return _Plan(grid, image_size, (offsets[0], offsets[1]), (inside[0], inside[1]))


def _offsets(stride: float, structural: float | None) -> Tensor:
    """From half a stride below 0 and the structural offset to half a stride above one stride and it."""
    known: Sequence[float] = (0.0, stride) if structural is None else (0.0, stride, structural)
    step = stride / STEPS_PER_STRIDE
    first, last = min(known) - stride / 2, max(known) + stride / 2
    return first + step * torch.arange(round((last - first) / step) + 1, dtype=torch.float64)


def _checked(maps: Tensor, name: str) -> Tensor:
    maps = maps.detach().float()
    if not bool(maps.isfinite().all()):
        raise FeatureMapError(
            f"RA302: expected finite features; got NaN or inf in map {name!r}. Look at images and weights."
        )
    return maps


def _centred(pooled: Tensor) -> Tensor:
    """[K, C, h, w] as vectors [K, C * h * w], without what all boxes share: it would raise every agreement."""
    return (pooled - pooled.mean((0, 2, 3), keepdim=True)).flatten(1)


def _smoothed(features: Tensor, dim: int) -> Tensor:
    """Averaged with its neighbours along `dim`, 1-2-1.

    Between cells the sampler interpolates, which blurs more the further from a centre. Features as sharp as cells would
    then agree best where both maps are blurred alike, at multiples of half a stride, wherever they lie.
    """
    cells = features.shape[dim]
    before = torch.arange(-1, cells - 1, device=features.device).clamp(min=0)
    after = torch.arange(1, cells + 1, device=features.device).clamp(max=cells - 1)
    return (features.index_select(dim, before) + 2 * features + features.index_select(dim, after)) / 4
