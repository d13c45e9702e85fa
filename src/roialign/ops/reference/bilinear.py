"""Reading one map at samples between its cells, in pure PyTorch, and the mean and the largest of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference.sampling import AxisRule, AxisSamples, Cells


class Corner(NamedTuple):
    """One of the four cells that each sample reads; all broadcast to [k, ph, pw, gy, gx]."""

    row: Tensor
    column: Tensor
    weight: Tensor
    read: Tensor

    def of(self, planes: Tensor) -> Tensor:
        """The values of planes [C, H, W] there, [C, k, ph, pw, gy, gx], 0 where nothing is read."""
        cells = (self.row * planes.shape[2] + self.column).expand(self.read.shape)
        values = planes.flatten(1).gather(1, cells.reshape(1, -1).expand(len(planes), -1))
        return torch.where(
            self.read, values.view(len(planes), *cells.shape), 0.0
        )  # not times: a NaN that is not read stays out


def corners(rows: Cells, columns: Cells) -> list[Corner]:
    """The cells that samples read, where rows and columns broadcast."""
    read = rows.read & columns.read
    return [
        Corner(row, column, by_row * by_column, read)
        for row, by_row in ((rows.low, 1 - rows.fraction), (rows.high, rows.fraction))
        for column, by_column in ((columns.low, 1 - columns.fraction), (columns.high, columns.fraction))
    ]


class Upright(NamedTuple):
    """The samples of upright boxes on a map; rows and columns broadcast to [k, ph, pw, gy, gx]."""

    rows: Cells
    columns: Cells
    per_bin: Tensor  # [k, 1, 1], samples of a bin, those off the map included
    coverage: Tensor  # [k], share of the samples that are on the map
    is_empty: Tensor  # bool [k], whether there are none

    @classmethod
    def of_boxes(
        cls, boxes: Tensor, size_hw: Sequence[int], pooled_hw: tuple[int, int], rules_yx: tuple[AxisRule, AxisRule]
    ) -> Upright:
        """Of boxes [k, 4] x1, y1, x2, y2."""
        x1, y1, x2, y2 = boxes.unbind(1)
        rows = AxisSamples.of_boxes(y1, y2, pooled_hw[0], rules_yx[0])
        columns = AxisSamples.of_boxes(x1, x2, pooled_hw[1], rules_yx[1])
        cells_y, cells_x = Cells.of_samples(rows, size_hw[0]), Cells.of_samples(columns, size_hw[1])
        return cls(
            cells_y[:, :, None, :, None],
            cells_x[:, None, :, None, :],
            (rows.count * columns.count)[:, None, None],
            cells_y.share(rows) * cells_x.share(columns),
            (rows.grid == 0) | (columns.grid == 0),
        )


def total(planes: Tensor, rows: Cells, columns: Cells, weight: Tensor | float = 1.0) -> Tensor:
    """The sum [C, k, ph, pw] of the weighted samples of each bin."""
    first, *others = (corner.weight * corner.of(planes) for corner in corners(rows, columns))
    return (sum(others, first) * weight).sum((-2, -1))
