"""Which level of a pyramid each box is pooled from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from roialign.errors import LevelError
from roialign.geometry import FeatureGrid
from roialign.ops.validate import describe
from roialign.regions.scripting import levels_by_size

LevelRule = Callable[[Tensor, Sequence[FeatureGrid]], Tensor]


@dataclass(frozen=True)
class FPNLevels:
    """The rule of feature pyramid networks: a box twice as large is pooled from a level twice as coarse.

    Convention: a box of `canonical_size` pixels (the root of its area) belongs to stride 2 ** canonical_level; each box
    goes to the coarsest level whose stride is at most what its size asks for, or to the finest if there is none.
    Strides may have any values, order and gaps, and no box is left out.

    Where strides are powers of two without gaps, these are the levels of torchvision's MultiScaleRoIAlign and
    of detectron2's ROIPooler, rounding included. Lin et al., "Feature Pyramid Networks", 2017, equation 1.

    Args:
        canonical_size: root of the area, in pixels of the image that entered the backbone.
        canonical_level: binary logarithm of the stride for a box of that size.

    Raises:
        LevelError: RA401, for invalid numbers.

    Example:
        >>> grids = [FeatureGrid((100, 100), (stride, stride)) for stride in (32.0, 8.0)]
        >>> FPNLevels()(torch.tensor([[0.0, 0, 20, 20], [0, 0, 500, 450]]), grids)
        tensor([1, 0])
    """

    canonical_size: float = 224.0
    canonical_level: float = 4.0

    def __post_init__(self) -> None:
        size, level = given = cast(tuple[Any, Any], (self.canonical_size, self.canonical_level))
        if not (all(isinstance(one, Real) for one in given) and size > 0 and math.isfinite(size + level)):
            raise LevelError(
                "RA401: expected canonical_size, pixels above zero, and canonical_level, the binary logarithm of a "
                f"stride; got {size!r} and {level!r}. Use FPNLevels(224, 4)."
            )

    def __call__(self, boxes_xyxy: Tensor, grids: Sequence[FeatureGrid]) -> Tensor:
        """The level [K] of each box [K, 4], an index into `grids`."""
        steps = [math.log2(math.sqrt(grid.stride_yx[0] * grid.stride_yx[1])) for grid in grids]
        return levels_by_size(boxes_xyxy, steps, self.canonical_size, self.canonical_level)


def levels_of(levels: LevelRule | Tensor, boxes_xyxy: Tensor, grids: Sequence[FeatureGrid]) -> Tensor:
    """The level [K] of each box, by a rule or as given, on the boxes' device."""
    if len(grids) == 1 and not isinstance(levels, Tensor):
        return torch.zeros(boxes_xyxy.shape[0], dtype=torch.int64, device=boxes_xyxy.device)
    chosen: Any = levels if isinstance(levels, Tensor) else _ask(levels, boxes_xyxy, grids)
    if not isinstance(chosen, Tensor) or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise LevelError(
            f"RA401: expected the level of each box as integers [{len(boxes_xyxy)}]; got {describe(chosen)}. Pass "
            "levels=FPNLevels(), a tensor, or a function of boxes_xyxy and grids that returns one."
        )
    return chosen.to(boxes_xyxy.device, torch.int64)


def _ask(levels: Any, boxes_xyxy: Tensor, grids: Sequence[FeatureGrid]) -> Any:
    if not callable(levels):
        raise LevelError(
            f"RA401: expected levels=FPNLevels(), a tensor of integers, or a function; got {describe(levels)}."
        )
    return levels(boxes_xyxy.detach(), grids)
