"""Outlines of regions as annotations give them, and how much of a region's box is within one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from roialign.geometry import AxisMap

_POINTS_A_SIDE = 4  # of a cell, that are looked at
_MOST_POINTS = 1 << 11  # along a side of a box of very many cells
_MOST_CROSSINGS = 1 << 22  # of rows of points with edges of a polygon, at once
_WANTED = "polygons [[x, y, x, y, ...], ...] or run lengths {size, counts}"


class Outline(Protocol):
    """The outline of a region, in pixels of the picture that was annotated."""

    def covers(self, xs: Tensor, ys: Tensor) -> Tensor:
        """Which of the points (x, y) of a grid are within it, bool [len(ys), len(xs)]; float64, in any order."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """All that is in one of some polygons, each by the even-odd rule.

    Args:
        parts_xy: the corners of each, float64 [n, 2].
    """

    parts_xy: tuple[Tensor, ...]

    def covers(self, xs: Tensor, ys: Tensor) -> Tensor:
        """See `Outline`."""
        within = torch.zeros(len(ys), len(xs), dtype=torch.bool)
        for part_xy in self.parts_xy:
            within |= _within(part_xy, xs, ys)
        return within


def _within(part_xy: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """A point is within a polygon if a line from it to the left crosses an odd number of edges."""
    (x, y), (next_x, next_y) = part_xy.T, part_xy.roll(-1, 0).T
    rows = []
    for some in ys[:, None].split(max(1, _MOST_CROSSINGS // len(part_xy))):
        is_crossed = (y <= some) != (next_y <= some)
        crossings = torch.where(is_crossed, x + (some - y) / (next_y - y) * (next_x - x), math.inf).sort(1).values
        rows.append(torch.searchsorted(crossings, xs.expand(len(some), -1).contiguous()) % 2 == 1)
    return torch.cat(rows)


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO's run lengths: pixels column by column, without and with the mask in turn.

    Args:
        size_hw: of the picture.
        ends: the pixel at which each run ends, int64.
    """

    size_hw: tuple[int, int]
    ends: Tensor

    def covers(self, xs: Tensor, ys: Tensor) -> Tensor:
        """See `Outline`."""
        height, width = self.size_hw
        rows, columns = ys.floor().long()[:, None], xs.floor().long()
        in_picture = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return (torch.searchsorted(self.ends, columns * height + rows, right=True) % 2 == 1) & in_picture


def read_outline(given: Any, size_hw: tuple[int, int], normalized: bool) -> Outline:
    """An outline as COCO, YOLO and LabelMe give it.

    Args:
        given: polygons [[x, y, x, y, ...], ...]; or run lengths {"size": [height, width], "counts": ...}, compressed
            or not.
        size_hw: of the picture that was annotated.
        normalized: whether polygons are fractions of its width and height.

    Raises:
        ValueError: with the reason, for anything else.

    Example:
        >>> square = read_outline([[1, 1, 3, 1, 3, 3, 1, 3]], (4, 4), normalized=False)
        >>> square.covers(torch.tensor([0.5, 1.5, 2.5, 3.5]), torch.tensor([2.5])).tolist()
        [[False, True, True, False]]
    """
    if isinstance(given, dict):
        return _run_lengths(given, size_hw)
    if not isinstance(given, Sequence) or not all(isinstance(part, Sequence) for part in given):
        raise ValueError(f"expected {_WANTED}; got {_short(given)}")
    height, width = size_hw if normalized else (1, 1)
    scale = torch.tensor([width, height], dtype=torch.float64)
    parts = [_points(part) * scale for part in given]
    return Polygons(tuple(part for part in parts if len(part) > 2))  # of two points there is nothing within


def _points(part: Sequence[Any]) -> Tensor:
    try:
        points = torch.tensor([float(value) for value in part], dtype=torch.float64)
    except (TypeError, ValueError):
        raise ValueError(f"expected {_WANTED}; got {_short(part)}") from None
    if len(points) % 2 or not bool(points.isfinite().all()):
        raise ValueError(f"expected the points of a polygon as x, y, x, y, ..., finite; got {_short(part)}")
    return points.view(-1, 2)


def _run_lengths(given: dict[str, Any], size_hw: tuple[int, int]) -> RunLengths:
    counts = given.get("counts")
    if given.get("size") != list(size_hw):
        height, width = size_hw
        raise ValueError(
            f"expected run lengths of the annotated picture, {height} x {width}; got those of {given.get('size')}"
        )
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError(f"expected counts of run lengths, whole numbers from 0 on; got {_short(counts)}")
    if sum(runs) != math.prod(size_hw):
        raise ValueError(f"expected counts of {math.prod(size_hw)} pixels; got those of {sum(runs)}")
    return RunLengths(size_hw, torch.tensor(runs).cumsum(0))


def _uncompressed(text: str) -> list[int]:
    """The run lengths that a text holds, five bits a sign, lowest first; the fourth and on less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last of this number
            if bits & 0x10:  # which is below zero
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


@dataclass(frozen=True, eq=False)
class OutlineInBox:
    """An outline, seen from the box of its region: as `roialign.regions` takes masks.

    Args:
        outline: in the picture that was annotated.
        box_xyxy: in another frame of that picture.
        to_annotated: from that frame to the picture that was annotated.
    """

    outline: Outline
    box_xyxy: tuple[float, float, float, float]
    to_annotated: AxisMap

    def shares(self, rows: int, columns: int) -> Tensor:
        """Of rows x columns equal cells that make up the box, how much of each is within the outline, [rows, columns].

        It is the share of 4 x 4 points, evenly spread over the cell.
        """
        x1, y1, x2, y2 = self.box_xyxy
        each = max(1, min(_POINTS_A_SIDE, _MOST_POINTS // max(rows, columns)))
        xs, ys = _spread(x1, x2, columns * each), _spread(y1, y2, rows * each)
        (scale_y, scale_x), (shift_y, shift_x) = self.to_annotated.scale_yx, self.to_annotated.shift_yx
        if self.to_annotated.transposed:
            covered = self.outline.covers(ys * scale_x + shift_x, xs * scale_y + shift_y).T
        else:
            covered = self.outline.covers(xs * scale_x + shift_x, ys * scale_y + shift_y)
        return covered.float().view(rows, each, columns, each).mean((1, 3))


def _spread(first: float, last: float, count: int) -> Tensor:
    """The centres of so many equal pieces."""
    return first + (torch.arange(count, dtype=torch.float64) + 0.5) * ((last - first) / count)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
