"""Whether the cells of a map lie in the order of the image, and the permutation that puts them there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.backbones.fields import CENTRE, CENTRE_MAX, CENTRE_MIN, FIRST, LAST, ROWS, SIZE

_SAME_SIZE = 1.05
_OUT_OF_ORDER = 0.5  # cells
_COVERED = 0.75  # of the image, by cells that are each in one place
_CROWDED = 0.5  # of the image, by cells that each see more places than one
_DECIMALS = 4
_BORDER = 8  # an eighth of the cells at each end


@dataclass(frozen=True)
class Disorder:
    """Cells out of order.

    Args:
        where: which cell lies where, as the end of a sentence.
        index: int64 [cells], which cell of the map, counted by rows, each cell of the map in order is; None if no
            permutation repairs it.
        size_hw: of the map in order.
    """

    where: str
    index: Tensor | None = None
    size_hw: tuple[int, int] = (0, 0)


def disorder(y: Tensor, x: Tensor, stride_yx: tuple[float, float], image_hw: tuple[int, int]) -> Disorder | None:
    """What is out of order in a map of cells whose positions are `y` and `x`, [ROWS, H, W] each; None if nothing is.

    An axis that runs backwards is in order, and so are cells that lie unevenly.
    """
    apart = [said for axis in (0, 1) if (said := _apart((y, x)[axis], axis, image_hw[axis]))]
    if apart:
        return Disorder(apart[0])
    wrong = _pairs(y, x, stride_yx)
    if not wrong or not _pairs(y.mT, x.mT, stride_yx):  # rows may lie along the second dimension
        return None
    centres = torch.stack(torch.broadcast_tensors(y[CENTRE], x[CENTRE]))
    found = _permutation(centres, image_hw)
    if found is None:
        return Disorder(f"{_said(centres, *wrong[0])}, and no permutation of the cells repairs it")
    index, size_hw = found
    return Disorder(_elsewhere(centres, index, size_hw), index, size_hw)


def misplaced(centres: Tensor) -> str | None:
    """Two cells of which one lies where it should not, of cells with `centres` [2, H, W]; None if all are in order.

    Cells at the border are not asked: what they see may be joined with the other end of the image.
    """
    inner = centres
    for dim in (1, 2):
        border = centres.shape[dim] // _BORDER
        inner = inner.narrow(dim, border, centres.shape[dim] - 2 * border)
    y, x = (one.expand(ROWS, *one.shape).clone() for one in inner)
    y[SIZE] = x[SIZE] = 1.0
    wrong = _pairs(y, x, (math.nan, math.nan))
    if not wrong or not _pairs(y.mT, x.mT, (math.nan, math.nan)):
        return None
    axis, pair = wrong[0]
    top, left = (size // _BORDER for size in centres.shape[1:])
    first, second = ((row + top, column + left) for row, column in pair)
    return _said(centres, axis, (first, second))


_Cell = tuple[int, int]


def _pairs(y: Tensor, x: Tensor, stride_yx: tuple[float, float]) -> list[tuple[int, tuple[_Cell, _Cell]]]:
    """The axes that are out of order, each with two cells that are."""
    return [(axis, pair) for axis in (0, 1) if (pair := _pair((y, x)[axis], axis, stride_yx[axis]))]


def _pair(rows: Tensor, axis: int, stride: float) -> tuple[_Cell, _Cell] | None:
    """Two cells of which the one that should lie further along `axis`, or as far, lies further back."""
    centre, asked = rows[CENTRE], _with_a_place(rows)
    if not bool(asked.any()):
        return None
    known = centre[asked]
    spread, steps = float(known.max() - known.min()), centre.shape[axis] - 1
    apart = spread / steps if steps else stride
    if not apart > 0:  # all in one place; NaN where there is no stride either
        return None
    first, backwards = (_ordered(rows, asked, axis, _OUT_OF_ORDER * apart, flip) for flip in (False, True))
    return None if backwards is None else first


def _with_a_place(rows: Tensor) -> Tensor:
    """The cells that lie where their centres do, not between the two ends of the image, which circular padding joins.

    Those see no more than others; where most see more than a few do, all that do not see both ends.
    """
    finite, size = rows[CENTRE].isfinite(), rows[SIZE]
    smallest = finite & (size <= size.amin() * _SAME_SIZE)
    if 2 * int(smallest.sum()) >= int(finite.sum()):
        return smallest
    return finite & ~((rows[FIRST] <= rows[FIRST].amin()) & (rows[LAST] >= rows[LAST].amax()))


def _ordered(rows: Tensor, asked: Tensor, axis: int, tolerance: float, flip: bool) -> tuple[_Cell, _Cell] | None:
    """As of `_pair`, for an axis that runs with the image, or against it."""
    least = torch.where(rows[CENTRE_MIN].isfinite(), rows[CENTRE_MIN], rows[CENTRE])
    most = torch.where(rows[CENTRE_MAX].isfinite(), rows[CENTRE_MAX], rows[CENTRE])
    if flip:
        least, most = -most, -least
    begin, end = torch.where(asked, least, -math.inf), torch.where(asked, most, math.inf)
    across = 1 - axis
    (furthest, at), (nearest, there) = begin.max(across), end.min(across)
    reached, by = furthest.cummax(0)
    late = (reached - nearest > tolerance).nonzero().flatten()
    if not len(late):
        return None
    line = int(late[0])
    earlier = int(by[line])
    pair = ((earlier, int(at[earlier])), (line, int(there[line])))
    return pair if axis == 0 else ((pair[0][1], pair[0][0]), (pair[1][1], pair[1][0]))


def _apart(rows: Tensor, axis: int, size: int) -> str | None:
    """What cells are that see places from all over the image, whose means crowd in its middle; None if they do not."""
    centre = rows[CENTRE]
    steps = centre.shape[axis] - 1
    if not steps or not bool(centre.isfinite().all()):
        return None
    covered = float(centre.max() - centre.min()) / steps * (steps + 1)
    least, most = rows[CENTRE_MIN], rows[CENTRE_MAX]
    if covered >= _CROWDED * size or not bool((most - least > covered).all()):
        return None
    first = f"{'yx'[axis]} {float(least[0, 0]):.6g} to {float(most[0, 0]):.6g}"
    return f"each cell combines places far apart, cell (0, 0) from {first}"


def _permutation(centres: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]] | None:
    """The cells by rows, then columns, and how many of each there are, if they make up a grid over the image."""
    if not bool(centres.isfinite().all()):
        return None
    tops, lefts = centres.flatten(1).round(decimals=_DECIMALS)
    lines = tops.unique(), lefts.unique()
    height, width = len(lines[0]), len(lines[1])
    if height * width != len(tops):
        return None
    index = raster(tops, lefts)
    rows = torch.stack([tops[index], lefts[index]]).unflatten(1, (height, width))
    if not (rows[0] == lines[0][:, None]).all() or not (rows[1] == lines[1]).all():
        return None
    for line, size in zip(lines, image_hw, strict=True):
        covered = float(line[-1] - line[0]) * len(line) / max(1, len(line) - 1)
        if len(line) > 1 and covered < _COVERED * size:
            return None  # cells that each see several places, whose centres happen to make up a grid
    return index, (height, width)


def lines(index: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """The permutations of rows and of columns that `index` consists of; None if cells of a row part."""
    height, width = size_hw
    rows, columns = index.view(height, width)[:, 0] // width, index[:width] % width
    return (rows, columns) if torch.equal((rows[:, None] * width + columns).flatten(), index) else None


def rolled_by(order: Tensor) -> int | None:
    """By how many places to roll what is in another `order`, the shorter way round; None if that does not mend it."""
    count, first = len(order), int(order[0])
    if not torch.equal(order, (torch.arange(count) + first) % count):
        return None
    return min(-first, count - first, key=abs)


def raster(tops: Tensor, lefts: Tensor) -> Tensor:
    """The order of cells by rows, then columns."""
    by_column = lefts.argsort(stable=True)
    return by_column[tops[by_column].argsort(stable=True)]


def _elsewhere(centres: Tensor, index: Tensor, size_hw: tuple[int, int]) -> str:
    """The first cell that lies where another should."""
    height, width = centres.shape[1:]
    places = centres.flatten(1)
    if size_hw != (height, width):
        return f"its {height} x {width} cells are those of a map of {size_hw[0]} x {size_hw[1]}"
    moved = (index != torch.arange(len(index))).nonzero().flatten()
    cell = int(moved[0])
    is_at, expected = places[:, cell].tolist(), places[:, int(index[cell])].tolist()
    named = _named(divmod(cell, width), dict(zip("yx", is_at, strict=True)))
    more = len(moved) - 1
    others = f", and {more} more {'is' if more == 1 else 'are'} misplaced" if more else ""
    what = _in_words(index, size_hw)
    return f"{what}{named} instead of y {expected[0]:.6g}, x {expected[1]:.6g}{others}"


def _in_words(index: Tensor, size_hw: tuple[int, int]) -> str:
    """What was done to rows and columns, to begin a sentence with; empty where cells of a row part."""
    moved = lines(index, size_hw)
    said = []
    for order, name, axis in zip(moved or (), ("rows", "columns"), "yx", strict=False):
        by = rolled_by(order)
        if by is None:
            said.append(f"its {name} are permuted")
        elif by and 2 * abs(by) == len(order):
            said.append(f"its halves along {axis} are swapped")
        elif by:
            said.append(f"it is rolled by {-by} {name}")
    return " and ".join(said) + ": " if said else ""


def _said(centres: Tensor, axis: int, pair: tuple[_Cell, _Cell]) -> str:
    """Where two cells lie of which one should not."""
    places = [f"{'yx'[axis]} {float(centres[axis][cell]):.6g}" for cell in pair]
    further = ("further down", "further right")[axis]
    which = ("in the same row", "in the same column")[axis] if pair[0][axis] == pair[1][axis] else f"which is {further}"
    return f"cell {pair[0]} is at {places[0]}, and cell {pair[1]}, {which}, at {places[1]}"


def _named(cell: _Cell, place: dict[str, float]) -> str:
    return f"cell {cell} is at {', '.join(f'{axis} {value:.6g}' for axis, value in place.items())}"
