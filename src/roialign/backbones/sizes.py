"""At which other image sizes a trace's strides and offsets hold, so that a backbone need not be traced for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from roialign.backbones.layers import LayerStep
from roialign.backbones.result import BackboneTrace
from roialign.geometry import FeatureGrid

_PLACED_BY_SIZE = ("pad", "copy", "slice")
_SCALED_BY_SIZE = ("adaptive", "upsample")


def depends_on_size(layers: Sequence[LayerStep]) -> bool:
    """Whether operators were run with which strides and offsets may be others at another image size."""
    return any(word in step.operator for step in layers for word in (*_PLACED_BY_SIZE, *_SCALED_BY_SIZE))


def growths(layers: Sequence[LayerStep]) -> list[int]:
    """By how many pixels images have to be larger for each operator that may look at the size to do something else.

    Padding to a multiple of n cells depends on the remainder of a map's size modulo n. A map grows by one cell when the
    image does by the map's stride, and all maps before it by whole multiples of what their operators look at, mostly;
    so only this operator does something else. For n of 3 and more one cell may not show it, but two do. One pixel more
    is always among them: a size that needs no padding shows none.
    """
    placing = [step for step in layers if any(word in step.operator for word in _PLACED_BY_SIZE)]
    strides = {math.ceil(stride) for step in placing for stride in step.stride_yx}
    return sorted({1, *strides, *(2 * stride for stride in strides)})


@dataclass(frozen=True)
class SizeFamily:
    """Image sizes at which the strides and offsets are those of one trace.

    trace: of one of them.
    period: sizes that differ from the trace's by multiples of it belong to the family; None where it is the only one.
    """

    trace: BackboneTrace
    period: int | None

    @classmethod
    def of(cls, trace: BackboneTrace) -> SizeFamily:
        """The family of a trace's size."""
        return cls(trace, _period(trace))

    def holds_at(self, image_hw: tuple[int, int]) -> bool:
        """Whether images of this size belong to the family."""
        height, width = self.trace.image_size_hw
        if self.period is None:
            return image_hw[0] == height and image_hw[1] == width
        return (image_hw[0] - height) % self.period == 0 and (image_hw[1] - width) % self.period == 0

    def grids(self, maps: Mapping[str, Tensor], image_hw: tuple[int, int]) -> dict[str, FeatureGrid] | None:
        """The grids of these maps [N, C, H, W], of images of the family.

        None where a map has other cells than its strides give: the backbone then does something else at this size, or
        now, than what was traced.
        """
        grids = {}
        for name, one in maps.items():
            grid, size_hw = self.trace[name], (one.shape[2], one.shape[3])
            axes = zip(size_hw, grid.size_hw, grid.stride_yx, image_hw, self.trace.image_size_hw, strict=True)
            for cells, traced_cells, stride, size, traced_size in axes:
                if abs((cells - traced_cells) * stride - (size - traced_size)) >= stride:
                    return None
            grids[name] = replace(grid, size_hw=size_hw)
        return grids


def _period(trace: BackboneTrace) -> int | None:
    """As of `SizeFamily`.

    1 where no operator looked at the size. Else an image larger by a multiple of all strides on the way gives maps
    larger by whole cells, to which the same is done; ratios of map sizes, which are strides where maps are resized,
    stay as they are if they are already those of a much larger image.
    """
    if any(isinstance(trace.methods[name]["structure"], str) or trace.layouts[name].kind == "tokens" for name in trace):
        return None  # nothing is known of other sizes; and the order of tokens is of one size
    if not depends_on_size(trace.layers):
        return 1
    for name, grid in trace.items():
        at_large = trace.methods[name]["shapes"]
        if isinstance(at_large, str) or at_large["stride_yx"] != grid.stride_yx:
            return None
    strides = {stride for step in trace.layers for stride in step.stride_yx}
    return math.lcm(*map(int, strides)) if all(stride >= 1 and stride.is_integer() for stride in strides) else None
