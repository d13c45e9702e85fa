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


def resizes(layers: Sequence[LayerStep]) -> bool:
    """Whether maps were resized, on which strides may depend; padding and cutting moves cells, and no more."""
    return any(word in step.operator for step in layers for word in _SCALED_BY_SIZE)


@dataclass(frozen=True)
class SizeFamily:
    """Image sizes at which the strides and offsets are those of one trace.

    trace: of one of them.
    period: sizes that differ from the trace's by multiples of it belong to the family; None where it is the only one.
    exact: whether the structural offsets are those of each size; else the strides alone are.
    """

    trace: BackboneTrace
    period: int | None
    exact: bool = True

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
            if not self.exact:
                grids[name] = replace(
                    grids[name], structural_offset_yx=None, offset_range_yx=None, receptive_field_centre_yx=None
                )
        return grids


def are_those_of_large_images(trace: BackboneTrace) -> bool:
    """Whether the strides are those that much larger images have, where that is known of all maps.

    Not of tokens, whose order is of one size.
    """
    return all(
        isinstance(trace.methods[name]["structure"], dict)
        and trace.layouts[name].kind != "tokens"
        and trace.methods[name]["shapes"] == {"stride_yx": grid.stride_yx}
        for name, grid in trace.items()
    )


def whole_cells(trace: BackboneTrace) -> int:
    """Pixels that are whole cells of every map on the way; cells of odd sizes come from resizing, and do not count."""
    strides = {stride for step in trace.layers for stride in step.stride_yx}
    return math.lcm(*(int(stride) for stride in strides if stride >= 1 and stride.is_integer()))


def are_treated_alike(trace: BackboneTrace, one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether the backbone does the same at both sizes: it pads as much at each layer and resizes by one factor."""
    if not depends_on_size(trace.layers):
        return True
    period = whole_cells(trace)
    if resizes(trace.layers):
        return all(size % period == 0 for size in (*one_hw, *other_hw))
    return all((one - other) % period == 0 for one, other in zip(one_hw, other_hw, strict=True))


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
    all_whole = all(stride >= 1 and stride.is_integer() for step in trace.layers for stride in step.stride_yx)
    return whole_cells(trace) if all_whole and are_those_of_large_images(trace) else None
