"""In which order and form the four numbers of a box may have been meant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from roialign.doctor.explanations import table


@dataclass(frozen=True)
class Order:
    """What the four numbers of a box are."""

    name: str
    code: str | None
    """None: corners, x first, as an operator takes them."""
    share: float
    """How common it is."""
    matrix: tuple[tuple[float, ...], ...]
    """Corners [x1, y1, x2, y2], a row each, of the four numbers."""
    line: str = ""
    """Corners as code, of the boxes `b` [L, 4]."""
    mirror: Literal["", "x", "y"] = ""
    """The axis along which the corners are measured from the other edge."""

    @property
    def sorted(self) -> bool:
        """Whether the numbers come with the smaller one first."""
        return bool(self.line) or self.matrix == _EYE

    @property
    def log_prior(self) -> float:
        return math.log(self.share)

    def corners(self, boxes: Tensor) -> Tensor:
        """Of boxes [K, 4], before any mirroring."""
        return boxes @ boxes.new_tensor(self.matrix).T


_EYE = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
_SIZE = ((1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (0, 1, 0, 1))
_CENTRE = ((1, 0, -0.5, 0), (0, 1, 0, -0.5), (1, 0, 0.5, 0), (0, 1, 0, 0.5))
_ADDED = ((1, 0, 0, 0), (0, 1, 0, 0), (-1, 0, 1, 0), (0, -1, 0, 1))
_HALF_MORE = ((0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5), (-0.5, 0, 1.5, 0), (0, -0.5, 0, 1.5))
_HALF_LESS = ((1.5, 0, -0.5, 0), (0, 1.5, 0, -0.5), (0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5))
_HALVED = ((2, 0, 0, 0), (0, 2, 0, 0), (1, 0, 1, 0), (0, 1, 0, 1))


def _exchanged(*places: int) -> tuple[tuple[float, ...], ...]:
    return tuple(_EYE[place] for place in places)


_CENTRE_LINE = "torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)"
_OTHERS = (
    Order("y first", "RA203", table.Y_FIRST, _exchanged(1, 0, 3, 2), "b[:, [1, 0, 3, 2]]"),
    Order("x, y, width, height", "RA201", table.XYWH, _SIZE, "torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1)"),
    Order("centre and size", "RA202", table.CXCYWH, _CENTRE, _CENTRE_LINE),
    Order("corners added", "RA211", table.CORNERS_ADDED, _ADDED, "torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1)"),
    Order(
        "corner taken for the centre",
        "RA216",
        table.HALF_ITS_SIZE,
        _HALF_MORE,
        "b + (b[:, 2:] - b[:, :2]).repeat(1, 2) / 2",
    ),
    Order(
        "centre taken for the corner",
        "RA216",
        table.HALF_ITS_SIZE,
        _HALF_LESS,
        "b - (b[:, 2:] - b[:, :2]).repeat(1, 2) / 2",
    ),
    Order("corner halved", "RA216", table.CORNER_HALVED, _HALVED, "b + b[:, :2].repeat(1, 2)"),
    Order("x1, x2, y1, y2", "RA217", table.ENDS_TOGETHER, _exchanged(0, 2, 1, 3), "b[:, [0, 2, 1, 3]]"),
    Order("y1, y2, x1, x2", "RA217", table.ENDS_TOGETHER, _exchanged(2, 0, 3, 1), "b[:, [2, 0, 3, 1]]"),
    Order("top, right, bottom, left", "RA217", table.AROUND, _exchanged(3, 0, 1, 2), "b[:, [3, 0, 1, 2]]"),
    Order("rotated clockwise", "RA212", table.TURNED, _exchanged(1, 0, 3, 2), "b[:, [1, 0, 3, 2]]", mirror="x"),
    Order("rotated counter-clockwise", "RA212", table.TURNED, _exchanged(1, 0, 3, 2), "b[:, [1, 0, 3, 2]]", mirror="y"),
    Order("x1 and x2 swapped", "RA204", table.EXCHANGED, _exchanged(2, 1, 0, 3), "b[:, [2, 1, 0, 3]]"),
    Order("y1 and y2 swapped", "RA204", table.EXCHANGED, _exchanged(0, 3, 2, 1), "b[:, [0, 3, 2, 1]]"),
    Order("corners swapped", "RA204", table.EXCHANGED, _exchanged(2, 3, 0, 1), "b[:, [2, 3, 0, 1]]"),
    Order("mirrored", "RA212", table.MIRRORED, _EYE, mirror="x"),
    Order("from the right, far edge first", "RA212", table.MIRRORED, _exchanged(2, 1, 0, 3), mirror="x"),
    Order("from the bottom", "RA212", table.FROM_THE_BOTTOM, _EYE, mirror="y"),
    Order(
        "from the bottom, upper edge first", "RA212", table.FROM_THE_BOTTOM_UNSORTED, _exchanged(0, 3, 2, 1), mirror="y"
    ),
)
USUAL = ("RA201", "RA202", "RA203", "RA212")
"""Codes of orders that go together with another frame."""
RIGHT = Order("corners", None, 1 - sum(order.share for order in _OTHERS), _EYE, "b")
ORDERS = (RIGHT, *_OTHERS)
_MATRICES = torch.tensor([order.matrix for order in ORDERS])


def mirrored(cells: Tensor, content: Tensor, axis: Literal["x", "y"]) -> Tensor:
    """Boxes [..., K, 4] measured from the other edge of `content` [..., K, 4]; x1 < x2 and y1 < y2 stay so."""
    low, high = (0, 2) if axis == "x" else (1, 3)
    result = cells.clone()
    total = content[..., low] + content[..., high]
    result[..., low], result[..., high] = total - cells[..., high], total - cells[..., low]
    return result


def stacked(boxes: Tensor) -> Tensor:
    """Corners [O, K, 4] by every order."""
    return boxes @ _MATRICES.to(boxes).transpose(1, 2)
