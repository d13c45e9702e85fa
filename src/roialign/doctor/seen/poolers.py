"""One run of torchvision's MultiScaleRoIAlign, and what is known of the maps that it pools from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from roialign.doctor.evidence import nominal_stride_yx
from roialign.doctor.pyramid import Pyramid
from roialign.doctor.seen.origins import Origin
from roialign.doctor.seen.tensors import is_plain
from roialign.geometry import FeatureGrid

_OriginOf = Callable[[Tensor], "Origin | None"]
_GridOf = Callable[[Origin, Tensor], "FeatureGrid | None"]
_NameOf = Callable[[nn.Module], "str | None"]


class PoolerRun:
    """A pooler that runs, with its arguments: maps by name, boxes of each image, sizes of the images."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.module = module
        self._named, self._boxes, self._image_sizes = args
        self._had_scales = getattr(module, "scales", None) is not None
        self._pyramid: Pyramid | None = None

    def pyramid(self, features: Tensor, origin_of: _OriginOf, grid_of: _GridOf, name_of: _NameOf) -> Pyramid | None:
        """What is known of the run, seen from its call for the map `features`; None where that is none of its maps."""
        if self._pyramid is None:
            self._pyramid = self._found(origin_of, grid_of, name_of)
        if self._pyramid is None:
            return None
        index = next((i for i, one in enumerate(self._maps().values()) if one is features), None)
        return None if index is None else replace(self._pyramid, index=index)

    def _maps(self) -> dict[Any, Tensor]:
        """The maps that the pooler takes of those that it is given, in the order in which they are given."""
        names: Any = getattr(self.module, "featmap_names", ())
        return {name: one for name, one in self._named.items() if name in names}

    def _found(self, origin_of: _OriginOf, grid_of: _GridOf, name_of: _NameOf) -> Pyramid | None:
        maps, boxes = self._maps(), self._boxes
        others = {
            name: one for name, one in self._named.items() if name not in maps and is_plain(one) and one.dim() == 4
        }
        scales: Any = getattr(self.module, "scales", None)
        rule: Any = getattr(self.module, "map_levels", None)
        by_powers = hasattr(rule, "k_min")  # roialign's pooler finds the levels by its grids
        usable = scales and by_powers and len(scales) == len(maps) and self._image_sizes
        if not usable or not all(type(some) is Tensor and some.dim() == 2 for some in boxes):
            return None
        origins = [origin_of(one) for one in maps.values()]
        sizes = {origin.size_hw for origin in origins if origin}
        grids = [origin and grid_of(origin, one) for origin, one in zip(origins, maps.values(), strict=True)]
        return Pyramid(
            pooler=name_of(self.module) or "pooler",
            names=tuple(map(str, maps)),
            map_sizes_hw=tuple((one.shape[2], one.shape[3]) for one in maps.values()),
            others=tuple(str(name) for name in others),
            other_sizes_hw=tuple((one.shape[2], one.shape[3]) for one in others.values()),
            boxes=tuple(boxes),
            image_sizes_hw=tuple((int(size[0]), int(size[1])) for size in self._image_sizes),
            scales=tuple(float(scale) for scale in scales),
            least=int(rule.k_min),
            most=int(rule.k_max),
            canonical_size=float(rule.s0),
            canonical_level=float(rule.lvl0),
            cached=self._had_scales,
            strides_yx=tuple(_strides(*known) for known in zip(maps.values(), origins, grids, strict=True)),
            traced=all(grid is not None for grid in grids),
            padded_hw=sizes.pop() if len(sizes) == 1 else None,
            index=0,
        )


def _strides(features: Tensor, origin: Origin | None, grid: FeatureGrid | None) -> tuple[float, float] | None:
    size_hw = (features.shape[2], features.shape[3])
    if grid is not None:
        return grid.stride_yx if grid.size_hw == size_hw else None
    return None if origin is None else nominal_stride_yx(origin.size_hw, size_hw)
