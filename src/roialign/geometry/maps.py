"""Maps that act along each axis on its own, or exchange the axes and then do: exact ones, and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

Line = tuple[Fraction, Fraction]  # scale and shift along one axis: exact, so that no chain of steps rounds


@dataclass(frozen=True, repr=False)
class AxisMap:
    """The map from one frame to another, along each axis on its own: `scale_yx * source + shift_yx`.

    Convention: pairs are (y, x) of the target, in pixels of the frames; a negative scale is a flip. Where the map is
    `transposed`, the axes of the source are exchanged first: y becomes `scale_yx[0] * x + shift_yx[0]`. The numbers
    are the exact map of the whole chain of steps, rounded once to float64.

    Example:
        >>> photo = Frame.image((480, 640))
        >>> photo.map_to(photo.resize((240, 320)).pad(left=8, top=0, right=0, bottom=0))
        AxisMap(scale_yx=(0.5, 0.5), shift_yx=(0.0, 8.0))
        >>> photo.map_to(photo.exif_transpose(6))
        AxisMap(scale_yx=(1.0, -1.0), shift_yx=(0.0, 480.0), transposed=True)
    """

    scale_yx: tuple[float, float]
    shift_yx: tuple[float, float]
    transposed: bool = False

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes [N, 4] of the source frame in the target frame: computed in float64, returned in their own type.

        A flip swaps the edges, so that x1 <= x2 and y1 <= y2 stay true. Differentiable; deterministic.
        """
        (scale_y, scale_x), (shift_y, shift_x) = self.scale_yx, self.shift_yx
        wide = torch.float32 if boxes_xyxy.device.type == "mps" else torch.float64  # MPS has no float64
        scale = torch.tensor([scale_x, scale_y] * 2, dtype=wide, device=boxes_xyxy.device)
        shift = torch.tensor([shift_x, shift_y] * 2, dtype=wide, device=boxes_xyxy.device)
        source = boxes_xyxy[..., [1, 0, 3, 2]] if self.transposed else boxes_xyxy
        mapped = source.to(wide) * scale + shift
        if scale_x < 0 or scale_y < 0:
            left, top = 2 * (scale_x < 0), 1 + 2 * (scale_y < 0)
            mapped = mapped[..., [left, top, 2 - left, 4 - top]]
        return mapped.to(boxes_xyxy.dtype)

    def __repr__(self) -> str:
        turned = ", transposed=True" if self.transposed else ""
        return f"AxisMap(scale_yx={self.scale_yx}, shift_yx={self.shift_yx}{turned})"


class ExactMap(NamedTuple):
    """An `AxisMap` in fractions."""

    y: Line
    x: Line
    transposed: bool = False

    def then(self, second: ExactMap) -> ExactMap:
        """This map and `second` after it."""
        y, x = (self.x, self.y) if second.transposed else (self.y, self.x)
        return ExactMap(_then(y, second.y), _then(x, second.x), self.transposed != second.transposed)

    def inverse(self) -> ExactMap:
        """The way back."""
        y, x = _inverse(self.y), _inverse(self.x)
        return ExactMap(x, y, True) if self.transposed else ExactMap(y, x)

    def rounded(self) -> AxisMap:
        """In float64."""
        (scale_y, shift_y), (scale_x, shift_x) = self.y, self.x
        return AxisMap((float(scale_y), float(scale_x)), (float(shift_y), float(shift_x)), self.transposed)


SAME = ExactMap((Fraction(1), Fraction(0)), (Fraction(1), Fraction(0)))


def _then(first: Line, second: Line) -> Line:
    return first[0] * second[0], first[1] * second[0] + second[1]


def _inverse(line: Line) -> Line:
    scale, shift = line
    return 1 / scale, -shift / scale
