"""Boxes that are right, loose, faulty or unrelated to a picture, and what its edges say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.doctor.picture import Edges

from .drawn import Drawn

COUNTS = (1, 3, 8, 15, 32)  # of the boxes of a call; 32 is all of them, as far as they are looked at
DRAWS = {
    "blood": 1,
    "trees": 2,
    "nuclei": 12,
    "pages": 2,
    "things": 12,
}  # of boxes, for each picture and number of them
ODDS = 20.0
SHARE_DRAWN = 0.7  # of the programs whose boxes somebody drew: what the others' follow counts for nothing

Move = Callable[[Tensor, float, float], Tensor]
"""Boxes [K, 4] in an image of this width and height to others."""


def _swapped(boxes: Tensor, width: float, height: float) -> Tensor:
    return boxes[:, [1, 0, 3, 2]]


def _mirrored(boxes: Tensor, width: float, height: float) -> Tensor:
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


def _upside_down(boxes: Tensor, width: float, height: float) -> Tensor:
    return torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)


def _as_sizes(boxes: Tensor, width: float, height: float) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _as_corners(boxes: Tensor, width: float, height: float) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _scaled(factor: float) -> Move:
    return lambda boxes, width, height: boxes * factor


def _shifted(pixels: float) -> Move:
    return lambda boxes, width, height: boxes + pixels


FAULTS: dict[str, tuple[Move, Move]] = {
    "y first": (_swapped, _swapped),
    "mirrored": (_mirrored, _mirrored),
    "upside down": (_upside_down, _upside_down),
    "x, y, width, height": (_as_sizes, _as_corners),
    "scaled by 0.5": (_scaled(0.5), _scaled(2)),
    "scaled by 0.6": (_scaled(0.6), _scaled(1 / 0.6)),
    "scaled by 0.8": (_scaled(0.8), _scaled(1.25)),
    "scaled by 1.25": (_scaled(1.25), _scaled(0.8)),
    "scaled by 1.67": (_scaled(1 / 0.6), _scaled(0.6)),
    "shifted by 8": (_shifted(8), _shifted(-8)),
    "shifted by 16": (_shifted(16), _shifted(-16)),
}
"""What was done to the boxes, and the hypothesis that undoes it."""
FAR = tuple(FAULTS)[:4]
"""Faults that take boxes to places that have nothing to do with their things."""


@dataclass(frozen=True)
class Look:
    """What `follow` says of boxes as called, and of what each hypothesis makes of them."""

    kind: str
    count: int
    called: str
    """What the boxes are: a fault, or one of the kinds that no hypothesis mends."""
    as_called: float
    hypotheses: Mapping[str, float]
    score: float
    """What the ratio as called is a function of."""


def alarm(look: Look, hypothesis: str, mixed: bool) -> bool:
    """Whether a hypothesis is ahead of the call by the odds; `mixed` where some boxes are taken not to be drawn."""
    ratios = [math.exp(value) for value in (look.hypotheses[hypothesis], look.as_called)]
    if mixed:
        ratios = [1 - SHARE_DRAWN + SHARE_DRAWN * ratio for ratio in ratios]
    return ratios[0] > ODDS * ratios[1]


def boxes_of_all_kinds(drawn: Drawn, boxes: Tensor, other: Drawn, draws: torch.Generator) -> dict[str, Tensor]:
    """Boxes that are right, loose, or have nothing to do with the picture; and those of each fault."""
    count, (height, width) = len(boxes), drawn.image.shape[1:]
    size, limits = boxes[:, 2:] - boxes[:, :2], torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=draws) * (limits - size).clamp(min=0)
    noise = torch.randn(boxes.shape, generator=draws) * torch.cat([size, size], 1)
    columns, place = int(torch.randint(1, count + 1, (), generator=draws)), torch.arange(count)
    cell = limits * (0.3 + 0.7 * torch.rand(2, generator=draws)) / torch.tensor([columns, -(-count // columns)])
    first = torch.rand(2, generator=draws) * 0.3 * limits + torch.stack([place % columns, place // columns], 1) * cell
    sides = torch.exp(torch.rand(count, 2, generator=draws) * 2.3 + math.log(max(10, 0.05 * min(width, height))))
    centre = torch.rand(count, 2, generator=draws) * limits
    anchor = (centre / 32).floor() * 32 + 16
    half = 16 * 2.0 ** torch.randint(0, 3, (count, 1), generator=draws)
    chosen = torch.randperm(len(other.boxes_xyxy), generator=draws)[torch.arange(count) % len(other.boxes_xyxy)]
    scale = limits / torch.tensor([other.image.shape[2], other.image.shape[1]])
    return {
        "right": boxes,
        "loose, 5 %": boxes + 0.05 * noise,
        "loose, 15 %": boxes + 0.15 * noise,
        "at random": torch.cat([corner, corner + size], 1),
        "of another picture": other.boxes_xyxy[chosen] * torch.cat([scale, scale]),
        "a dense grid": torch.cat([first, first + cell], 1),
        "proposals": torch.cat([centre - sides / 2, centre + sides / 2], 1),
        "anchors": torch.cat([anchor - half, anchor + half], 1),
        **{name: made(boxes, width, height) for name, (made, _) in FAULTS.items()},
    }


UNRELATED = ("at random", "of another picture", "a dense grid", "proposals", "anchors")


def looks(pictures: list[Drawn], seed: int, repeats: int = 1) -> Iterator[Look]:
    """All that is to be measured, picture by picture."""
    draws = torch.Generator().manual_seed(seed)
    for index, drawn in enumerate(pictures):
        kin = [one for one in pictures if one.kind == drawn.kind and one is not drawn]
        edges, (height, width) = Edges.of(drawn.image), drawn.image.shape[1:]
        for count in COUNTS:
            if len(drawn.boxes_xyxy) < (16 if count == COUNTS[-1] else count):
                continue
            for _ in range(repeats * DRAWS[drawn.kind]):
                boxes = drawn.boxes_xyxy[torch.randperm(len(drawn.boxes_xyxy), generator=draws)[:count]]
                kinds = boxes_of_all_kinds(drawn, boxes, kin[index % len(kin)], draws)
                tried = [
                    torch.stack([some, *(undo(some, width, height) for _, undo in FAULTS.values())])
                    for some in kinds.values()
                ]
                flat = torch.cat(tried)
                ratios = edges.follow(flat).view(len(kinds), -1).tolist()
                scores, seen = edges.scores(torch.stack(list(kinds.values())))
                for name, row, score, known in zip(kinds, ratios, scores.tolist(), seen.tolist(), strict=True):
                    if known:
                        hypotheses = dict(zip(FAULTS, row[1:], strict=True))
                        yield Look(drawn.kind, count, name, row[0], hypotheses, score)
