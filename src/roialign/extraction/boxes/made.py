"""Boxes that no one drew: the whole image, and grids over it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from roialign.backbones.reading import upright_size_hw
from roialign.extraction.items import ColumnType, ImageBoxes, ImageRef
from roialign.extraction.packages import needed

WORDS = '"whole", "grid:ROWSxCOLUMNS" or "grid:SIZE/STEP" in pixels'
_CELLS = re.compile(r"grid:([1-9][0-9]*)x([1-9][0-9]*)")
_SQUARES = re.compile(r"grid:([1-9][0-9]*)/([1-9][0-9]*)")


@dataclass(frozen=True)
class _Made:
    """Boxes of every image, without annotations."""

    matching: None = field(default=None, init=False)
    columns: dict[str, ColumnType] = field(default_factory=dict, init=False)

    def unmatched(self, images: Iterable[str]) -> Iterator[str]:
        """None."""
        return iter(())


@dataclass(frozen=True)
class CellBoxes(_Made):
    """`rows` x `columns` boxes of one size that make up each image, row by row; 1 x 1 is the whole image."""

    grid: tuple[int, int]

    @property
    def fingerprint(self) -> str:
        """What decides the boxes."""
        return f"{self.grid[0]} x {self.grid[1]} cells"

    def of(self, image: ImageRef) -> ImageBoxes:
        """The boxes, as fractions of the picture."""
        rows, columns = self.grid
        cells = [
            (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
            for row in range(rows)
            for column in range(columns)
        ]
        numpy = needed("numpy")
        return ImageBoxes(numpy.array(cells, dtype=numpy.float64), tuple(map(str, range(len(cells)))), normalized=True)


@dataclass(frozen=True)
class SquareBoxes(_Made):
    """Squares of `size` pixels every `step` pixels, row by row from the top left.

    The last of a row or column ends at the picture's edge, so that all of the picture is covered. Of a picture that is
    narrower or lower than `size` the boxes are as narrow or low.
    """

    size: int
    step: int

    @property
    def fingerprint(self) -> str:
        """What decides the boxes."""
        return f"squares of {self.size} pixels every {self.step}"

    def of(self, image: ImageRef) -> ImageBoxes:
        """The boxes, in pixels of the upright picture, whose size is read from its head."""
        height, width = upright_size_hw(io.BytesIO(image.read_bytes()), image.image_id)
        boxes = [
            (x, y, min(x + self.size, width), min(y + self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]
        numpy = needed("numpy")
        ids = tuple(map(str, range(len(boxes))))
        return ImageBoxes(numpy.array(boxes, dtype=numpy.float64), ids, size_hw=(height, width))

    def _starts(self, length: int) -> list[int]:
        last = max(length - self.size, 0)
        return [*range(0, last, self.step), last]


def open_made(word: str) -> CellBoxes | SquareBoxes | None:
    """The boxes that a word stands for; None, if it is no such word."""
    if word == "whole":
        return CellBoxes((1, 1))
    if cells := _CELLS.fullmatch(word):
        return CellBoxes((int(cells[1]), int(cells[2])))
    if squares := _SQUARES.fullmatch(word):
        return SquareBoxes(int(squares[1]), int(squares[2]))
    return None
