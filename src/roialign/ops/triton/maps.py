"""Feature maps as the kernels take them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from roialign.ops.triton.launch import INTEGER_LIMIT, form_of_numbers, form_of_tensors

TILE = 8  # cells along the side of a tile, of which a program of the backward pass owns one


class Grids(NamedTuple):
    """The sizes of the maps, and how coordinates become their cells; an entry for each level."""

    heights: tuple[int, ...]
    widths: tuple[int, ...]
    cells: tuple[tuple[int, ...], ...]
    """Scales and shifts of the rows, then those of the columns, as the bits of float64."""

    def tiles(self) -> tuple[int, ...]:
        """Tiles of an image's map."""
        return tuple(-(-h // TILE) * -(-w // TILE) for h, w in zip(self.heights, self.widths, strict=True))


class Maps(NamedTuple):
    """Feature maps, an entry for each level."""

    tensors: tuple[Tensor, ...]
    strides: tuple[tuple[int, ...], ...]
    """Of images, channels, rows and columns, in elements."""
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    is_wide: bool
    """Whether an image's cells are too many for 32 bits."""

    def form(self) -> tuple[Any, ...]:
        return (form_of_tensors(*self.tensors), *map(form_of_numbers, self.strides))


def as_maps(inputs: Sequence[Tensor]) -> Maps:
    strides = [one.stride() for one in inputs]
    shapes = [one.shape for one in inputs]
    furthest = (
        sum((extent - 1) * step for extent, step in zip(shape[1:], stride[1:], strict=True))
        for shape, stride in zip(shapes, strides, strict=True)
    )
    return Maps(
        tuple(inputs),
        tuple(zip(*strides, strict=True)),
        tuple(shape[2] for shape in shapes),
        tuple(shape[3] for shape in shapes),
        max(furthest) >= INTEGER_LIMIT,
    )


@lru_cache(maxsize=1024)
def bits_of_cells(cells: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    """`cells`, four numbers for each level, as `Grids` has them."""
    bits: tuple[int, ...] = struct.unpack(f"{len(cells)}q", struct.pack(f"{len(cells)}d", *cells))
    return bits[0::4], bits[1::4], bits[2::4], bits[3::4]
