"""Maps whose cells are not in the order of the image, and how to put them in order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.backbones.layout import Layout
from roialign.backbones.order import lines, rolled_by
from roialign.errors import FeatureMapError
from roialign.geometry.grid import FeatureGrid

_MOST_IN_A_LINE = 64  # cells


@dataclass(frozen=True, eq=False)
class Scrambled:
    """A map whose cells are not in the order of the image, and the map in order, if a permutation repairs it.

    Convention: sizes are (height, width) in cells, cells are counted by rows.

    Args:
        layout: which output of the backbone it is, and the order of its dimensions, as the backbone returns it.
        reason: which cell is where.
        index: int64 [cells], which cell of the returned map each cell of the map in order is; None if no permutation
            repairs it.
        grid: of the map in order; None where there is none.

    Example:
        >>> import torch
        >>> from roialign import trace
        >>> class Exchanged(torch.nn.Conv2d):
        ...     def forward(self, image):
        ...         return super().forward(image).roll(3, dims=3)
        >>> backbone = Exchanged(3, 8, 16, stride=16)
        >>> try:
        ...     trace(backbone, image_size=(64, 96))
        ... except ValueError as error:
        ...     found = error.scrambled["0"]
        >>> found.line
        'features = features.roll(-3, 3)'
        >>> image = torch.rand(1, 3, 64, 96)
        >>> torch.equal(found.in_order(backbone(image)), torch.nn.Conv2d.forward(backbone, image))
        True
        >>> found.grid.size_hw, found.grid.stride_yx
        ((4, 6), (16.0, 16.0))
    """

    layout: Layout
    reason: str
    index: Tensor | None = None
    grid: FeatureGrid | None = None

    def in_order(self, features: Tensor) -> Tensor:
        """The map as [N, C, H, W] with its cells in the order of the image.

        Args:
            features: the map as the backbone returned it, for an image of the traced size.

        Returns:
            A new tensor of the same type, on the same device, of `grid.size_hw` cells.

        Raises:
            FeatureMapError: if no permutation repairs the map, or `features` has other cells.
        """
        if self.index is None or self.grid is None:
            raise FeatureMapError(
                f"RA311: expected a map that a permutation puts in order; got one where {self.reason}."
            )
        features = self.layout.as_map(features)
        if tuple(features.shape[2:]) != self.layout.size_hw:
            height, width = self.layout.size_hw
            raise FeatureMapError(
                f"RA305: expected the map as [N, C, {height}, {width}]; got shape {list(features.shape)}. "
                "Trace the backbone at this image size."
            )
        cells = features.flatten(2).index_select(2, self.index.to(features.device))
        return cells.reshape(*features.shape[:2], *self.grid.size_hw)

    @property
    def line(self) -> str | None:
        """A line of code that makes `features`, the map as it was returned, one in order; None if it would be long."""
        if self.index is None or self.grid is None:
            return None
        expression = _expression(self.index, self.layout.size_hw, self.grid.size_hw)
        first = ".permute(0, 3, 1, 2)" if self.layout.kind == "NHWC" else ""
        return None if expression is None else f"features = features{first}{expression}"


def _expression(index: Tensor, size_hw: tuple[int, int], in_order_hw: tuple[int, int]) -> str | None:
    """What follows `features` [N, C, H, W] in the line."""
    end = f".unflatten(2, {in_order_hw})"
    if bool((index.diff() == 1).all()):
        return f".flatten(2){end}"
    of_lines = lines(index, size_hw) if size_hw == in_order_hw else None
    if of_lines is not None:
        rows, columns = (_moved(order, dim) for order, dim in zip(of_lines, (2, 3), strict=True))
        return None if rows is None or columns is None else rows + columns
    digits = _digits(index)
    if digits is not None:
        sizes, places = digits
        dims = ", ".join(str(place + 2) for place in places)
        return f".flatten(2).unflatten(2, {sizes}).permute(0, 1, {dims}).flatten(2){end}"
    if len(index) <= _MOST_IN_A_LINE:
        return f".flatten(2)[:, :, {index.tolist()}]{end}"
    return None


def _moved(order: Tensor, dim: int) -> str | None:
    """The rows or columns in order, as code; None if that is too long to write."""
    by = rolled_by(order)
    if by is not None:
        return f".roll({by}, {dim})" if by else ""
    return f"[{':, ' * dim}{order.tolist()}]" if len(order) <= _MOST_IN_A_LINE else None


def _digits(index: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and their order, if `index` is `arange(n).view(sizes).permute(order).flatten()`, as that of windows is."""
    runs: list[tuple[int, int]] = []  # (length, stride) of what is innermost, then of what is around it
    rest = index
    while len(rest) > 1:
        step = int(rest[1] - rest[0])
        breaks = (rest.diff() != step).nonzero().flatten()
        length = int(breaks[0]) + 1 if len(breaks) else len(rest)
        if step < 1 or len(rest) % length:
            return None
        runs.append((length, step))
        rest = rest[::length]
    outer = sorted(runs, key=lambda run: -run[1])
    sizes = tuple(length for length, _ in outer)
    order = tuple(outer.index(run) for run in reversed(runs))
    again = torch.arange(len(index)).view(sizes).permute(order).flatten() if math.prod(sizes) == len(index) else None
    return (sizes, order) if again is not None and torch.equal(again, index) else None
