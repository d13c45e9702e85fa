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


def log_likelihood(
    cells: Tensor,
    per_unit: Tensor,
    content: Tensor,
    stride: Tensor,
    slack: Tensor,
    main: Tensor,
    by_rule: Tensor,
    nothing: Tensor,
    distinct: int,
    regular: bool,
) -> Tensor:
    """The sum of all terms, [E].

    `per_unit` [E, K, 2] is how many cells one unit of the numbers is, along x and y; `stride` [E] pixels are
    a cell, `slack` [E] is in cells, `main` bool
    [K] are the boxes of one image, and `by_rule` bool [E] the explanations that have one rule for all boxes.
    `nothing` bool [K] are rows of zeros, which stand for no box; `distinct` boxes differ from one another; `regular`
    ones are anchors or windows.
    """
    low, size = content[..., :2], content[..., 2:] - content[..., :2]
    near, far = (cells[..., :2] - low) / size, (cells[..., 2:] - low) / size
    sides = far - near
    empty = (sides == 0).any(-1)
    empty = empty | (empty[:1] & by_rule[:, None])  # numbers that are exactly equal are so by no other rule
    ordered = torch.cat([near.minimum(far), near.maximum(far)], -1)
    return (
        _rare((sides < 0).any(-1) & ~empty, table.INVERTED)
        + _rare(empty & ~nothing, table.EMPTY)
        + _placed(ordered, slack[:, None, None] / size, regular)
        + _crowding(sides, per_unit / size, ordered, ~(nothing | empty | empty[:1]), distinct)
        + _visible(cells, stride)
        + _marks(ordered[:, main], ((slack + table.PADDED_PX / stride)[:, None] / size[:, 0]).repeat(1, 2))
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


def _placed(boxes: Tensor, slack: Tensor, regular: bool) -> Tensor:
    """Within the content, over its border, or beyond it."""
    slack = slack.clamp(min=table.OVERHANG)
    within = ((boxes[..., :2] >= -slack) & (boxes[..., 2:] <= 1 + slack)).all(-1)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    beyond = ((centres - 0.5).abs() - 0.5 - slack).amax(-1).clamp(min=0)
    visible = boxes[..., 2:].clamp(max=1) - boxes[..., :2].clamp(min=0)
    hidden = (visible < table.VISIBLE * (boxes[..., 2:] - boxes[..., :2])).any(-1)
    outside = ~within & (hidden | (beyond > 0))
    counts = torch.stack([within.sum(1), (~within & ~outside).sum(1), outside.sum(1)], 1).float()
    counts = counts * min(1.0, table.PLACED_BOXES / boxes.shape[1])
    shares = counts.new_tensor([table.REGULAR] if regular else table.PLACEMENTS)
    placed = (counts @ shares[:, 1:].log().T + shares[:, 0].log()).logsumexp(1)
    far = (table.FAR * (beyond - table.NOT_FAR).clamp(min=0)).sum(1) * min(1.0, table.PLACED_BOXES / boxes.shape[1])
    return placed - far.clamp(max=table.MOST_LOST_FAR)


def _crowding(sides: Tensor, per_unit: Tensor, boxes: Tensor, counted: Tensor, distinct: int) -> Tensor:
    """The density of healthy boxes at these numbers: anywhere in the content, and of the usual sizes.

    In units of the numbers as they were passed, so that explanations of any scale can be compared: boxes that all lie
    in a corner, or that are all small, are unlikely at that scale by as much as they are crowded. Some programs have
    such boxes: no more is lost than so much behind the scale at which the boxes as called, the first explanation, would
    just fill the content. Boxes that are centred outside it count for nothing here.
    """
    density = _density(sides, per_unit)
    filling = 1 / boxes[0].abs().max().clamp(min=1e-6)
    anchor = _density(sides[0] * filling, per_unit[0] * filling)
    inside = ((boxes[..., :2] + boxes[..., 2:]) / 2 - 0.5).abs().amax(-1) <= 0.5
    rows = counted.sum(1).clamp(min=1).to(density.dtype)
    mean = torch.where(counted & inside, density - anchor, 0.0).sum(1) / rows
    most = rows.clamp(max=min(table.CROWDED_BOXES, distinct))
    return (table.CROWDING * most * mean).clamp(min=-(table.MOST_CROWDED[0] + table.MOST_CROWDED[1] * most))


def _density(sides: Tensor, per_unit: Tensor) -> Tensor:
    area = sides.abs().prod(-1).clamp(min=1e-8)
    spread = (area.log() / 2 - math.log(table.RELATIVE_SIZE)) / table.SIZE_SPREAD
    return 2 * per_unit.abs().log().sum(-1) - area.log() - (spread**2).log1p()


def _visible(cells: Tensor, stride: Tensor) -> Tensor:
    """Boxes with an area are seldom far smaller than a cell, and of a few pixels at least."""
    longer = (cells[..., 2:] - cells[..., :2]).abs().amax(-1)
    longer = torch.where(longer > 0, longer, torch.nan).nanmedian(1).values.nan_to_num(torch.inf)
    smaller = (table.LEAST_CELLS / longer).log2().clamp(min=0) + (table.LEAST_PX / (longer * stride)).log2().clamp(
        min=0
    )
    return -table.BELOW * smaller


def _marks(boxes: Tensor, slack: Tensor) -> Tensor:
    """Sides that lie exactly on the border, as clipped ones do, and boxes that all end at a number that is none."""
    ends = torch.cat([1 - boxes[..., 2:], boxes[..., :2]], -1)  # [E, K, 4]: how far from the border
    on_border = ends.abs() < _TOUCHES
    gained = (table.TOUCHING[0] * (1.0 + on_border.sum((1, 2))).log2()).clamp(max=table.TOUCHING[1])
    last = ends.amin(1, keepdim=True)
    repeated = ((ends - last).abs() < 1e-6).sum(1) >= 2
    elsewhere = repeated & (last[:, 0].abs() >= slack.clamp(min=50 * _TOUCHES))
    return gained + math.log(table.CLIPPED_ELSEWHERE) * elsewhere.sum(1)
