"""Where the picture lies in a letterboxed image: its bars are of one colour, and the same on both sides."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

_LEAST_BAR_PX = 2
_MOST_BARS = 0.8  # of the image: more is an image of little else


class Picture(NamedTuple):
    """The part of an image between its bars, in pixels of the image; the far edges are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def picture_in(image: Tensor) -> Picture | None:
    """The picture in an image [C, H, W] with bars above and below, or left and right; None where it has none."""
    height, width = image.shape[-2:]
    above, beside = _bars(image), _bars(image.transpose(1, 2))
    if above is not None and beside is None:
        return Picture(0, above[0], width, height - above[1])
    if beside is not None and above is None:
        return Picture(beside[0], 0, width - beside[1], height)
    return None  # a frame all around belongs to the picture


def _bars(image: Tensor) -> tuple[int, int] | None:
    """How many rows of one colour begin and end an image, if they are a letterbox's: as many, one more or less."""
    height = image.shape[1]
    colour = image[:, :1, :1]
    if height < 8 or not bool((image[:, :: height - 1] == colour).all()):
        return None  # most images end here, with two rows looked at
    pictured = (image != colour).any(0).any(1).nonzero().flatten()
    if not len(pictured):
        return None
    before, behind = int(pictured[0]), height - 1 - int(pictured[-1])
    even = abs(before - behind) <= 1 and min(before, behind) >= _LEAST_BAR_PX
    return (before, behind) if even and before + behind <= _MOST_BARS * height else None
