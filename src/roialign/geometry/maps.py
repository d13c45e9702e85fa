"""Maps that act along each axis on its own, or exchange the axes and then do: exact ones, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.errors import FrameError
from roialign.geometry import values

EXIF = {  # the orientations: whether the axes are swapped, and then which are flipped, y and x
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_MOST_REDUCED = 4096  # bits: larger numbers share no factors that are worth looking for


@dataclass(frozen=True, repr=False)
class AxisMap:
    """The map from one frame to another, separate for each axis: `scale_yx * source + shift_yx`.

    Convention: pairs are (y, x) of the target, in pixels of the frames; a negative scale is a flip. Where the map is
    `transposed`, the axes of the source are swapped first: y becomes `scale_yx[0] * x + shift_yx[0]`. The numbers are
    the exact map of the whole chain of steps, rounded once to float64.

    Example:
        >>> from roialign import Frame
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


class Line(NamedTuple):
    """A map along one axis, exactly: (`scale` * old + `shift`) / `over`, whole numbers, `over` above zero."""

    scale: int
    shift: int
    over: int

    @classmethod
    def of(cls, scale: Fraction, shift: Fraction) -> Line:
        """scale * old + shift."""
        over = scale.denominator * shift.denominator
        return _reduced(scale.numerator * shift.denominator, shift.numerator * scale.denominator, over)

    @classmethod
    def ratio(cls, new: int, old: int) -> Line:
        """old becomes new, and zero stays."""
        return _reduced(new, 0, old)

    @classmethod
    def moved(cls, shift: int) -> Line:
        """old + shift."""
        return cls(1, shift, 1)

    @classmethod
    def flipped(cls, size: int) -> Line:
        """size - old."""
        return cls(-1, size, 1)

    def then(self, second: Line) -> Line:
        """This map and `second` after it."""
        shift = second.scale * self.shift + second.shift * self.over
        return _reduced(second.scale * self.scale, shift, second.over * self.over)

    def inverse(self) -> Line:
        """The way back."""
        sign = 1 if self.scale > 0 else -1
        return Line(sign * self.over, -sign * self.shift, sign * self.scale)

    def words(self, name: str) -> str:
        """What becomes of the coordinate `name`."""
        scale, shift = self.scale / self.over, self.shift / self.over
        scaled = {1.0: name, -1.0: f"-{name}"}.get(scale, f"{scale:.6g} {name}")
        if scale < 0 and shift:
            return f"{shift:.6g} - {scaled.lstrip('-')}"
        return f"{scaled} {'-' if shift < 0 else '+'} {abs(shift):.6g}" if shift else scaled

    def fractions(self) -> tuple[Fraction, Fraction]:
        """Scale and shift."""
        return Fraction(self.scale, self.over), Fraction(self.shift, self.over)


class ExactMap(NamedTuple):
    """An `AxisMap` in whole numbers, so that no chain of steps rounds."""

    y: Line
    x: Line
    transposed: bool = False

    def then(self, second: ExactMap) -> ExactMap:
        """This map and `second` after it."""
        y, x = (self.x, self.y) if second.transposed else (self.y, self.x)
        return ExactMap(y.then(second.y), x.then(second.x), self.transposed != second.transposed)

    def inverse(self) -> ExactMap:
        """The way back."""
        y, x = self.y.inverse(), self.x.inverse()
        return ExactMap(x, y, True) if self.transposed else ExactMap(y, x)

    def words(self) -> tuple[str, str]:
        """What x and y become."""
        y, x = "xy" if self.transposed else "yx"
        return self.x.words(x), self.y.words(y)

    def rounded(self) -> AxisMap:
        """Each number rounded once to float64; a number past its range raises OverflowError."""
        lines = self.y, self.x
        scale_y, scale_x = (line.scale / line.over for line in lines)
        shift_y, shift_x = (line.shift / line.over for line in lines)
        if not scale_y or not scale_x:
            raise OverflowError("a scale below float64's range")
        return AxisMap((scale_y, scale_x), (shift_y, shift_x), self.transposed)


SAME = ExactMap(Line(1, 0, 1), Line(1, 0, 1))


def exact_map(scale_yx: Any, shift_yx: Any, transposed: bool = False) -> ExactMap:
    """`scale_yx * source + shift_yx`, the axes of the source swapped first where `transposed`.

    Raises:
        FrameError: RA107, unless these are two finite numbers each, and the scales are not zero.
    """
    scales, shifts = values.exact_pair(scale_yx), values.exact_pair(shift_yx)
    if scales is None or shifts is None or not all(map(float, scales)):
        raise FrameError(
            f"RA107: expected finite scales other than zero and finite shifts; got "
            f"scale_yx={values.shown(scale_yx)} and shift_yx={values.shown(shift_yx)}. Pass "
            "scale_yx=(new height / old height, new width / old width)."
        )
    y, x = (Line.of(scale, shift) for scale, shift in zip(scales, shifts, strict=True))
    return ExactMap(y, x, transposed)


def upright(orientation: int, size_hw: tuple[int, int]) -> tuple[tuple[int, int], ExactMap]:
    """The size of an image of this size as its EXIF orientation says to show it, and the map there."""
    transposed, flipped_y, flipped_x = EXIF[orientation]
    height, width = size_hw[::-1] if transposed else size_hw
    y = Line.flipped(height) if flipped_y else SAME.y
    x = Line.flipped(width) if flipped_x else SAME.x
    return (height, width), ExactMap(y, x, transposed)


def composed(maps: Sequence[ExactMap]) -> ExactMap:
    """All maps, the first one first: in pairs, for the numbers of a long chain may grow with its length."""
    while len(maps) > 1:
        pairs = [maps[place].then(maps[place + 1]) for place in range(0, len(maps) - 1, 2)]
        maps = pairs + list(maps[len(pairs) * 2 :])
    return maps[0]


def _reduced(scale: int, shift: int, over: int) -> Line:
    if over.bit_length() > _MOST_REDUCED:
        return Line(scale, shift, over)
    common = gcd(scale, shift, over)
    return Line(scale // common, shift // common, over // common)
