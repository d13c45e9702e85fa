"""How well healthy boxes would look like those that an explanation says were meant: one sum of log-likelihoods.

Every term is computed for all explanations at once: cells [E, K, 4] are the boxes as each of them says they lie on the
map, content [E, K, 4] the part of the map that shows the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roialign.doctor.explanations import table

_TOUCHES = 2e-4  # of the content


def log_likelihood(cells: Tensor, content: Tensor, slack: Tensor, main: Tensor) -> Tensor:
    """The sum of all terms, [E]; `slack` [E] in cells, `main` bool [K]: the boxes of one image."""
    low, size = content[..., :2], content[..., 2:] - content[..., :2]
    near, far = (cells[..., :2] - low) / size, (cells[..., 2:] - low) / size
    sides = far - near
    empty, nothing = (sides == 0).any(-1), (sides == 0).all(-1)
    ordered = torch.cat([near.minimum(far), near.maximum(far)], -1)
    return (
        _rare((sides < 0).any(-1) & ~empty, table.INVERTED)
        + _rare(empty & ~nothing, table.EMPTY)
        + _placed(ordered, slack[:, None, None] / size)
        + _reach(ordered)
        + _sizes(sides, cells)
        + _marks(ordered[:, main])
    )


def _rare(rare: Tensor, programs: Sequence[tuple[float, float]]) -> Tensor:
    """Rows [E, K] as healthy programs seldom have them."""
    count, rows = rare.sum(1).float(), rare.shape[1]
    terms = [
        math.log(share) + count * math.log(rate) + (rows - count) * math.log(1 - rate)
        if rate
        else torch.where(count > 0, -torch.inf, math.log(share))
        for share, rate in programs
    ]
    return torch.stack(terms).logsumexp(0)


def _placed(boxes: Tensor, slack: Tensor) -> Tensor:
    """Within the content, over its border, or beyond it."""
    slack = slack.clamp(min=table.OVERHANG)
    within = ((boxes[..., :2] >= -slack) & (boxes[..., 2:] <= 1 + slack)).all(-1)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    beyond = ((centres - 0.5).abs() - 0.5 - slack).amax(-1).clamp(min=0)
    counts = torch.stack([within.sum(1), (~within & (beyond == 0)).sum(1), (~within & (beyond > 0)).sum(1)], 1).float()
    counts = counts * min(1.0, table.PLACED_BOXES / boxes.shape[1])
    shares = counts.new_tensor(table.PLACEMENTS)
    placed = (counts @ shares[:, 1:].log().T + shares[:, 0].log()).logsumexp(1)
    return placed - (table.FAR * beyond).sum(1).clamp(max=table.MOST_LOST_FAR)


def _reach(boxes: Tensor) -> Tensor:
    """The furthest of n boxes that end anywhere reaches the fraction f with a density n * f ** n of its logarithm."""
    n = min(boxes.shape[1], table.REACHING_BOXES)
    spans = torch.cat([boxes[..., 2:].amax(1), 1 - boxes[..., :2].amin(1)], 1).clamp(1e-6, 1)
    return ((1 - table.ANYWHERE) * n * spans**n + table.ANYWHERE * spans).log().sum(1)


def _sizes(sides: Tensor, cells: Tensor) -> Tensor:
    """Boxes of the usual size in their image, and not far smaller than a cell."""
    root = sides.abs().prod(-1).sqrt().clamp(min=1e-9).median(1).values
    spread = (root.log() - math.log(table.RELATIVE_SIZE)) / table.SIZE_SPREAD
    longer = (cells[..., 2:] - cells[..., :2]).abs().amax(-1).clamp(min=1e-9).median(1).values
    return -(spread**2) / 2 - table.BELOW * (table.LEAST_CELLS / longer).log2().clamp(min=0)


def _marks(boxes: Tensor) -> Tensor:
    """Sides that lie exactly on the border, as clipped ones do, and boxes that all end at a number that is none."""
    ends = torch.cat([1 - boxes[..., 2:], boxes[..., :2]], -1)  # [E, K, 4]: how far from the border
    on_border = ends.abs() < _TOUCHES
    gained = (table.TOUCHING[0] * (1.0 + on_border.sum((1, 2))).log2()).clamp(max=table.TOUCHING[1])
    last = ends.amin(1, keepdim=True)
    repeated = ((ends - last).abs() < 1e-6).sum(1) >= 2
    elsewhere = repeated & (last[:, 0].abs() >= 50 * _TOUCHES)
    return gained + math.log(table.CLIPPED_ELSEWHERE) * elsewhere.sum(1)
