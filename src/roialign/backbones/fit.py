"""From positions of cells to stride, offset and receptive field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.backbones.fields import CENTRE, CENTRE_MAX, CENTRE_MIN, FIRST, HIGH, LAST, LOW, Term

_AFFINE = 1e-6  # pixels


@dataclass(frozen=True)
class AxisStructure:
    """How the cells of a map lie along one axis of the image.

    Convention: pixels of the image that entered the backbone, pixel i covering [i, i + 1).

    Args:
        cells: cells along the axis.
        stride: nominal distance between the centres of neighbouring cells.
        offset: centre of cell 0 on the primary path, the branch with the smallest receptive field.
        offset_range: least and greatest offset of all branches that meet, and of cells that lie unevenly.
        extent: receptive field in pixels, those in padding counted; None if it is the whole image.
        field_centre: centre of cell 0's receptive field, which is that of its widest branch; None where the field is
            the whole image, or does not move on by the stride from cell to cell, as under an FPN's coarser maps.
    """

    cells: int
    stride: float
    offset: float
    offset_range: tuple[float, float]
    extent: float | None
    field_centre: float | None

    @property
    def is_even(self) -> bool:
        """Whether the cells of every branch are centred at one offset."""
        return self.offset_range[1] - self.offset_range[0] < 1e-3


def fit(rows: Tensor, step: float, stride: float) -> AxisStructure | str:
    """The structure of cells whose positions are `rows` [ROWS, cells]; a str says why there is none."""
    cells = rows.shape[1]
    index = torch.arange(cells, dtype=torch.float64)
    inner = slice(cells // 4, max(cells // 4 + 1, cells - cells // 4))
    centre = rows[CENTRE]
    if not centre[inner].isfinite().all():
        return "its cells have no position: the whole image was mixed"
    nominal = step if step and not math.isnan(step) else stride
    if cells > 1:
        nominal = _nominal(centre[inner], nominal)
    if nominal < 0:
        return "it is mirrored: its cells run opposite to the image"
    if not nominal or math.isnan(nominal):
        return "its cells are all in one place"
    rest = centre[inner] - nominal * index[inner]
    offset = float(rest.min() + rest.max()) / 2
    least = float((rows[CENTRE_MIN] - nominal * index)[inner].min())
    most = float((rows[CENTRE_MAX] - nominal * index)[inner].max())
    sees = (rows[HIGH] - rows[LOW] + 1).amax()
    ends = (min(least, float(rest.min())), max(most, float(rest.max())))
    middles = ((rows[LOW] + rows[HIGH] + 1) / 2 - nominal * index)[inner]
    is_one = bool(sees.isfinite()) and float(middles.max() - middles.min()) < _AFFINE
    return AxisStructure(
        cells,
        _tidy(nominal),
        _tidy(offset),
        (_tidy(ends[0]), _tidy(ends[1])),
        float(sees) if sees.isfinite() else None,
        _tidy(float(middles[0])) if is_one else None,
    )


def _nominal(centre: Tensor, nominal: float) -> float:
    """The nominal stride if the cells keep to it, otherwise the mean distance between their centres."""
    known = centre.isfinite().nonzero().flatten()
    first, last = int(known[0]), int(known[-1])
    if first == last:
        return nominal
    mean = float(centre[last] - centre[first]) / (last - first)
    if math.isnan(nominal) or abs(mean - nominal) * (last - first) > 2.5 * abs(nominal) + _AFFINE:
        return mean
    return nominal


def _tidy(value: float) -> float:
    """Without what float64 leaves of sums of fractions."""
    return round(value, 9) + 0.0


def extents(rows_y: Tensor, rows_x: Tensor, image_hw: Sequence[int]) -> Tensor:
    """[H, W, 4]: first and last row, first and last column of the pixels that each cell reads; (0, -1, 0, -1): none."""
    parts = [
        part
        for rows, size in ((rows_y, image_hw[0]), (rows_x, image_hw[1]))
        for part in (rows[FIRST].clamp(0, size), rows[LAST].clamp(-1, size - 1))
    ]
    stacked = torch.stack(torch.broadcast_tensors(*parts), -1).long()
    empty = (stacked[..., 0] > stacked[..., 1]) | (stacked[..., 2] > stacked[..., 3])
    return torch.where(empty[..., None], torch.tensor([0, -1, 0, -1]), stacked)


def summary(term: Term) -> AxisStructure | None:
    """The structure along the one dimension that an axis lies along; None if it lies along several or none."""
    dims = [d for d, step in enumerate(term.steps) if step]
    if len(dims) != 1 or math.isnan(term.steps[dims[0]]):
        return None
    values = term.values
    for d in range(values.ndim - 2, -1, -1):
        if d != dims[0]:
            values = values.select(d + 1, 0)
    result = fit(values, term.steps[dims[0]], term.stride)
    return None if isinstance(result, str) else result
