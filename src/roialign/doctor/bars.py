"""Where the picture lies in an image that was padded: letterboxed, or at two of its sides.

Padding is of exactly one colour over whole rows or columns. A margin all around belongs to the picture, be it a frame
or the paper of a page.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_BAR_PX = 2
_LEAST_SIDE_PX = 8
_MOST_LETTERBOXED = 0.8  # of a side: more is an image of little else
_MOST_PADDED = 0.95  # the same where a batch is padded to its largest image
_COLUMNS_TRIED = 16
_ROUNDING = 1e-5  # of what interpolation leaves of one colour


class Picture(NamedTuple):
    """The part of an image between its bars, in pixels of the image; the far edges are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def pictures_in(images: Tensor) -> tuple[Picture | None, ...]:
    """The picture in each image of [N, C, H, W]; None where the whole of it has content."""
    if min(images.shape[2:]) < _LEAST_SIDE_PX:
        return (None,) * len(images)
    images = images.detach()
    edges = (images[:, :, :1], images[:, :, -1:], images[:, :, :, :1], images[:, :, :, -1:])
    of_one_colour = torch.stack([_is_one_colour(edge) for edge in edges])  # most images end here
    may_be = (of_one_colour.any(0) & ~of_one_colour.all(0)).tolist()
    return tuple(picture_in(image) if may else None for image, may in zip(images, may_be, strict=True))


def picture_in(image: Tensor) -> Picture | None:
    """The picture in an image [C, H, W] with bars; None where it has none, or all around.

    Bars are a letterbox's, above and below or left and right, as thick as one another; or padding at one side, or at
    two that meet in a corner.
    """
    height, width = image.shape[-2:]
    top, bottom = _bars(image)
    left, right = _bars(image.transpose(1, 2))
    sides = sum(map(bool, (top, bottom, left, right)))
    if (top and bottom) or (left and right):
        before, behind, whole = (top, bottom, height) if top else (left, right, width)
        ends = image[:, 0, 0], image[:, -1, -1]
        fits = sides == 2 and abs(before - behind) <= 1 and before + behind <= _MOST_LETTERBOXED * whole
        fits = fits and bool(_is_close(*ends).all())
    else:
        fits = sides > 0 and top + bottom <= _MOST_PADDED * height and left + right <= _MOST_PADDED * width
    return Picture(left, top, width - right, height - bottom) if fits else None


def _bars(image: Tensor) -> tuple[int, int]:
    """How many rows of one colour begin and end an image [C, H, W]; none where all are."""
    before, behind = _bar(image, at_end=False), _bar(image, at_end=True)
    return (0, 0) if before == image.shape[1] else (before, behind)


def _bar(image: Tensor, at_end: bool) -> int:
    """How many rows at one end are of one colour; few of the values elsewhere are looked at."""
    height, width = image.shape[1:]
    colour = image[:, -1:, -1:] if at_end else image[:, :1, :1]
    most = _run(image[:, :, :: max(1, width // _COLUMNS_TRIED)], colour, at_end)
    thickness = _run(image[:, height - most :] if at_end else image[:, :most], colour, at_end)
    return thickness if thickness >= _LEAST_BAR_PX else 0


def _run(rows: Tensor, colour: Tensor, at_end: bool) -> int:
    """How many rows of this colour [C, H, W] begins or ends with."""
    others = (~_is_close(rows, colour).all(0).all(1)).nonzero()
    if not len(others):
        return rows.shape[1]
    return rows.shape[1] - 1 - int(others[-1]) if at_end else int(others[0])


def _is_one_colour(edges: Tensor) -> Tensor:
    """Whether each of the edges [N, C, h, w] is of one colour, bool [N]."""
    return _is_close(edges, edges[:, :, :1, :1]).flatten(1).all(1)


def _is_close(values: Tensor, colour: Tensor) -> Tensor:
    return (values - colour).abs() <= _ROUNDING * (1 + colour.abs())
