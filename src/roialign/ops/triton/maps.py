"""Feature maps, and how boxes are read from them, as the kernels take them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from roialign.ops.triton.launch import INTEGER_LIMIT, form_of_numbers, form_of_tensors

TILE = 8  # cells along the side of a tile, of which a program of the backward pass owns one
Numbers = tuple[int, ...]


class Layout(NamedTuple):
    """Where the cells of maps lie; tuples have an entry for each level."""

    strides: tuple[Numbers, ...]
    """Of images, channels, rows and columns, in elements."""
    heights: Numbers
    """`uniform`, as are the widths."""
    widths: Numbers
    is_wide: bool
    """Whether an image's cells are too many for 32 bits."""
    channels_last: bool
    form: tuple[Any, ...]
    """What Triton compiles for of these numbers."""


class Cells(NamedTuple):
    """Scales and shifts of the rows, then those of the columns, as the bits of float64."""

    bits: tuple[Numbers, ...]
    form: tuple[Any, ...]


class Rule(NamedTuple):
    """How boxes are read. `levels` is None where there is one map; `cells` has four numbers for each."""

    levels: Tensor | None
    cells: tuple[float, ...]
    sampling_ratio: int
    widen: bool


def rule_of_scale(scale: float, ratio: int, aligned: bool) -> Rule:
    """The rule that torchvision's arguments describe."""
    shift = 0.5 if aligned else 0.0
    return Rule(None, (scale, shift, scale, shift), ratio, not aligned)


def uniform(numbers: Iterable[int]) -> Numbers:
    """Numbers that kernels take in a tuple, times 16.

    Triton compiles a kernel of its own for each pattern of ones and multiples of 16 among the numbers of a tuple. So
    there is one kernel for all sizes.
    """
    return tuple(16 * one for one in numbers)


def layout_of(maps: Sequence[Tensor]) -> Layout:
    return _layout(tuple(one.shape for one in maps), tuple(one.stride() for one in maps))


@lru_cache(maxsize=1024)
def _layout(shapes: tuple[Numbers, ...], strides: tuple[Numbers, ...]) -> Layout:
    by_axis = tuple(zip(*strides, strict=True))
    return Layout(
        by_axis,
        uniform(shape[2] for shape in shapes),
        uniform(shape[3] for shape in shapes),
        any(map(is_wide, shapes, strides)),
        all(stride[1] == 1 for stride in strides),
        tuple(map(form_of_numbers, by_axis)),
    )


def is_wide(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an image's cells are too many for 32 bits."""
    return sum((extent - 1) * step for extent, step in zip(shape[1:], strides[1:], strict=True)) >= INTEGER_LIMIT


@lru_cache(maxsize=1024)
def cells_of(numbers: tuple[float, ...]) -> Cells:
    """`numbers`, four for each level, as the kernels take them."""
    bits, form = bits_of(numbers)
    return Cells((bits[0::4], bits[1::4], bits[2::4], bits[3::4]), form)


@lru_cache(maxsize=1024)
def bits_of(numbers: tuple[float, ...]) -> tuple[Numbers, tuple[Any, ...]]:
    """Numbers as the bits of float64, and what Triton compiles for of them."""
    bits: Numbers = struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
    return bits, (form_of_numbers(bits), tuple(one == 0 for one in bits))


def cells_of_boxes(rois: Tensor, rule: Rule) -> tuple[tuple[Numbers, ...], tuple[Any, ...]]:
    """The cells as the kernels take them, and what Triton compiles for of the boxes and of how they are read."""
    cells = cells_of(rule.cells)
    of_levels = None if rule.levels is None else form_of_tensors(rule.levels)
    return cells.bits, (cells.form, rois.get_device(), of_levels, form_of_tensors(rois))


def form_of_maps(maps: Sequence[Tensor], layout: Layout) -> tuple[Any, ...]:
    """What Triton compiles for of maps."""
    return layout.form, form_of_tensors(*maps)


def tiles_of_image(heights: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Tiles of an image's map, for each level."""
    return [-(-height // TILE) * -(-width // TILE) for height, width in zip(heights, widths, strict=True)]


def begins_of(counts: Sequence[int]) -> tuple[Numbers, int]:
    """Where each begins when they are counted through, `uniform`, and how many there are together."""
    begins, total = [], 0
    for count in counts:
        begins.append(total)
        total += count
    return uniform(begins), total
