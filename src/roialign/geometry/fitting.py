"""The sizes that images are resized to in proportion, rounded as each library rounds them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, get_args

from roialign.errors import FrameError
from roialign.geometry import values

Rounding = Literal["floor", "round", "half_up"]  # "round" is Python's: halves to even


def by_shorter(size_hw: tuple[int, int], size: int, max_size: int | None, rounding: Rounding) -> tuple[int, int]:
    """The shorter side made `size`, or less where the longer would pass `max_size`."""
    size = _side(size, "size")
    shorter, longer = sorted(size_hw)
    unrounded = Fraction(size * longer, shorter)
    other = _rounded(unrounded, rounding)
    # torchvision floors the longer side before it looks at max_size, detectron2 rounds when all is done
    before = Fraction(other) if rounding == "floor" else unrounded
    if max_size is not None and before > (most := _side(max_size, "max_size")):
        size, other = _rounded(most * size / before, rounding), most
    return (size, other) if size_hw[0] <= size_hw[1] else (other, size)


def by_longer(size_hw: tuple[int, int], size: int, rounding: Rounding) -> tuple[int, int]:
    """The longer side made `size`."""
    return _scaled(size_hw, Fraction(_side(size, "size"), max(size_hw)), rounding)


def within(size_hw: tuple[int, int], most_hw: tuple[int, int], upscale: bool, rounding: Rounding) -> tuple[int, int]:
    """As large as fits into `most_hw`."""
    ratio = min(Fraction(most, side) for most, side in zip(most_hw, size_hw, strict=True))
    return _scaled(size_hw, ratio if upscale else min(ratio, Fraction(1)), rounding)


def _scaled(size_hw: tuple[int, int], ratio: Fraction, rounding: Rounding) -> tuple[int, int]:
    height, width = (max(1, _rounded(side * ratio, rounding)) for side in size_hw)
    return height, width


def _rounded(value: Fraction, rounding: Rounding) -> int:
    if not isinstance(rounding, str) or rounding not in get_args(Rounding):
        known = ", ".join(f'"{one}"' for one in get_args(Rounding))
        raise FrameError(f"RA107: expected rounding, one of {known}; got {values.shown(rounding)}. torchvision floors.")
    if rounding == "round":
        return round(value)
    return int(value if rounding == "floor" else value + Fraction(1, 2))


def _side(value: Any, name: str) -> int:
    side = values.whole(value)
    if side is None or side < 1:
        raise FrameError(f"RA107: expected {name}, a side in whole pixels; got {values.shown(value)}.")
    return side
