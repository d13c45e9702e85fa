"""What torchvision's MultiScaleRoIAlign does with its maps, boxes and image sizes: levels and scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from roialign.geometry import FeatureGrid
from roialign.ops.calls import RoICall
from roialign.regions.levels import FPNLevels

_MOST_PADDED = 64  # pixels, to make a side divisible
Size = tuple[int, int]
Sizes = tuple[Size, ...]


@dataclass(frozen=True)
class Pyramid:
    """One run of a MultiScaleRoIAlign, of whose calls of `roi_align` one is looked at."""

    pooler: str
    """What the pooler is called in the program, as far as that is known: "model.roi_heads.box_roi_pool"."""
    names: tuple[str, ...]
    """The names of the maps that it pools from, in the order in which it takes them."""
    map_sizes_hw: Sizes
    others: tuple[str, ...]
    """The names of the maps that it was given and leaves out."""
    other_sizes_hw: Sizes
    boxes: tuple[Tensor, ...]
    """One tensor [L, 4], xyxy, for each image."""
    image_sizes_hw: Sizes
    """As given to the pooler."""
    scales: tuple[float, ...]
    """The scale that it uses for each map."""
    least: int
    """The level of the first map, as a power of two: 2 for stride 4."""
    most: int
    """The level of the last map."""
    canonical_size: float
    canonical_level: float
    cached: bool
    """Whether it inferred its scales in an earlier run."""
    strides_yx: tuple[tuple[float, float] | None, ...]
    """The real strides of each map, where they are known."""
    traced: bool
    """Whether the strides are from tracing the backbone, and not from sizes."""
    padded_hw: tuple[int, int] | None
    """The size of the tensor that entered the backbone, where it is known."""
    index: int
    """Which of the maps the call that is looked at is of."""
    by_grids: bool = False
    """Whether `pool_regions` pools in place of the pooler, with the grid of each map."""

    @cached_property
    def rois(self) -> Tensor:
        """All boxes [K, 5], the batch index first, without a gradient."""
        rows = [
            torch.cat([some.new_full((len(some), 1), index), some.detach()], 1) for index, some in enumerate(self.boxes)
        ]
        return torch.cat(rows) if rows else torch.empty(0, 5)

    @cached_property
    def levels(self) -> Tensor:
        """Which map the rule sends each box to, int64 [K]; none that there is where it gets zeros."""
        if self.by_grids:
            grids = [self.grid(index) for index in range(len(self.names))]
            return FPNLevels(self.canonical_size, self.canonical_level)(self.rois[:, 1:], grids).cpu()
        if len(self.map_sizes_hw) == 1:
            return torch.zeros(len(self.rois), dtype=torch.int64)
        asked_for = self.asked_for.clamp(min=self.least, max=self.most)
        return (asked_for.to(torch.int64) - self.least).cpu()

    @cached_property
    def asked_for(self) -> Tensor:
        """The level, as a power of two, that the size of each box asks for, [K]."""
        sides = self.rois[:, 3:] - self.rois[:, 1:3]
        size = sides.prod(1).sqrt()
        return torch.floor(self.canonical_level + torch.log2(size / self.canonical_size) + 1e-6)

    @cached_property
    def lost(self) -> Tensor:
        """Boxes with an area, bool [K], that find no map and become zeros."""
        sides = (self.rois[:, 3:] - self.rois[:, 1:3]).cpu()
        has_area = (sides > 0).all(1) & sides.isfinite().all(1)
        return has_area & ((self.levels < 0) | (self.levels >= len(self.map_sizes_hw)))

    def inferred(self, image_sizes_hw: Sequence[Size], map_sizes_hw: Sizes | None = None) -> tuple[float, ...]:
        """The scales that a new pooler would infer from these image sizes: from the heights alone."""
        height = max(size[0] for size in image_sizes_hw)
        sizes_hw = self.map_sizes_hw if map_sizes_hw is None else map_sizes_hw
        return tuple(2.0 ** round(math.log2(size[0] / height)) for size in sizes_hw)

    def with_scales(self, scales: Sequence[float]) -> Pyramid:
        """The same run with other scales, from which the pooler takes its levels, too."""
        return replace(self, scales=tuple(scales), least=int(-math.log2(scales[0])), most=int(-math.log2(scales[-1])))

    def in_order(self, order: Sequence[int], scales: Sequence[float] | None = None) -> Pyramid:
        """The same run with its maps in another order, or with fewer of them."""
        picked = replace(
            self,
            names=tuple(self.names[index] for index in order),
            map_sizes_hw=tuple(self.map_sizes_hw[index] for index in order),
            strides_yx=tuple(self.strides_yx[index] for index in order),
        )
        return picked.with_scales([(scales or self.scales)[index] for index in order])

    def call(self, index: int, like: RoICall) -> RoICall:
        """The call of `roi_align` for the boxes of one map, without features: where it reads, not what."""
        rois = self.rois[(self.levels == index).to(self.rois.device)].to(like.input.device)
        empty = like.input.new_empty(like.input.shape[0], 0, *self.map_sizes_hw[index])
        if not self.by_grids:
            return like.with_(input=empty, rois=rois, spatial_scale=self.scales[index])
        down, across = self.grid(index).stride_yx
        return like.with_(input=empty, rois=rois, spatial_scale=1 / down, cells=(1 / down, 0.0, 1 / across, 0.0))

    @cached_property
    def spokesman(self) -> int:
        """The map at whose call the boxes of the run are looked at."""
        return 0 if float(self.asked_for.isnan().float().mean()) > 0.5 else self.busiest

    @property
    def fills_its_batch(self) -> bool:
        """Whether the images are as large as their batch, but for what it was padded to be divisible."""
        sizes = list(zip(*self.image_sizes_hw, strict=True))
        pairs = zip(sizes, self.padded_hw or (), strict=False)
        return self.padded_hw is not None and all(0 <= padded - max(some) < _MOST_PADDED for some, padded in pairs)

    def whole(self, like: RoICall) -> RoICall:
        """All boxes on the first map: what the pooler was asked, as one call of `roi_align` without features.

        Single boxes without a size are left out: it gives them to no map.
        """
        empty = like.input.new_empty(like.input.shape[0], 0, *self.map_sizes_hw[0])
        sized = ~self.asked_for.isnan() & self.rois.isfinite().all(1)
        rois = (self.rois[sized] if float(sized.float().mean()) > 0.5 else self.rois).to(like.input.device)
        return like.with_(input=empty, rois=rois, spatial_scale=self.scales[0], lists=len(self.boxes))

    def grid_of_the_first(self) -> FeatureGrid | None:
        """The grid of the first map, where it was traced."""
        stride_yx = self.strides_yx[0] if self.traced else None
        return None if stride_yx is None else FeatureGrid(self.map_sizes_hw[0], stride_yx)

    @cached_property
    def busiest(self) -> int:
        """The map that most boxes are pooled from."""
        counts = [int((self.levels == index).sum()) for index in range(len(self.names))]
        return counts.index(max(counts))

    def coverage(self, like: RoICall) -> Tensor:
        """The coverage of all boxes [K], 0 for those that find no map."""
        coverage = torch.zeros(len(self.rois))
        for index in range(len(self.map_sizes_hw)):
            chosen = self.levels == index
            coverage[chosen] = self.call(index, like).coverage().float().cpu()
        return coverage

    def grid(self, index: int) -> FeatureGrid:
        """The real grid of a map, read as torchvision reads it: cell (0, 0) on the corner of the image."""
        stride = self.strides_yx[index] or (1 / self.scales[index],) * 2
        return FeatureGrid(self.map_sizes_hw[index], stride, offset_yx=(0.0, 0.0))
