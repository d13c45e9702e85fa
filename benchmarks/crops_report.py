"""The page of the comparison of RoIAlign with crops."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from .crops_data import Boxed
from .crops_features import JOINED, STRIDES
from .crops_scores import THIRDS, side_px, thirds
from .report import table

LEVELS = (*STRIDES, JOINED)
REFERENCE = "RoIAlign"
_HEAD = """\
# RoIAlign or crops

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- EfficientNet-Lite0 with ImageNet weights, frozen; versions: roialign {roialign} at commit {commit}, torch {torch},
  timm {timm}, scikit-learn {scikit-learn}, deepforest 2.1.0, stardist 0.9.2
- Machine: {cpu}, {machine}; other processes kept {cpus_used_by_others:.1f} CPUs busy
- Day: {date}

**RoIAlign**: the whole image goes through the network once, and the features of a box are the mean of 7 x 7 bins of
`pool_regions` on grids that `roialign.trace` found, with the conventional offset; that is what
`roi_align(..., aligned=True)` gives. *One bin*: its samples without bins. *3 x 3 bins kept*: side by side, not their
mean. *Structural offset*: where the receptive fields are centred. *aligned=False*: the offset 0. *Masked*: the mean
under the mask. *Image 2x*: the image was enlarged first, bilinear.

**Crop**: the box, its sides times 1.5 where that is said, is cut out, resized to a square and goes through the network
alone; its features are the mean of a map.

**Levels**: the maps of strides 8, 16 and 32 with 40, 112 and 320 channels; *head*, what the last convolution makes of
the last map, 1280 channels; and the first three side by side, each of length 1 first.

**Accuracy**: a linear probe, scikit-learn's LogisticRegression on standardised features, its strength by
cross-validation on what it learns from; balanced, the mean over kinds of the share of boxes that are found to be of
their kind. **Precision**: the share of the nearest boxes by cosine that belong to the same thing, the mean over kinds;
nothing is learnt. Neighbours from the same photograph do not count: they share light and stain, and with RoIAlign
pixels that were seen, too, which would favour it.

Percent. The mean of {draws} draws, in brackets the least and the most. A draw takes half of the groups (photographs of
cells, tiles of woods, nuclei): those of the training part to learn from, those of both parts to look for neighbours.
All boxes of the test part are classified.
"""
_ABOUT = {
    "Blood cells": """\
Of BCCD's photographs of 480 x 640 pixels; learnt on `trainval`, classified on `test`. At most 300 of each kind and
split, drawn: red cells are 85 % of the boxes. Here a kind is a size. By chance both measures are 33 %.
""",
    "Trees": """\
Tiles of 400 x 400 pixels of the four aerial photographs of deepforest with boxes. All classes there, dead and alive,
are called trees, for only one photograph tells them apart. Background: boxes of the same sizes, drawn where they
overlap no tree and no other one; for some no place is found. Learnt on the largest photograph, classified on the other
three; neighbours come from other photographs. By chance both measures are 50 %.
""",
    "Nuclei": """\
The micrograph of stardist, in two halves of 512 x 256 pixels, all eight ways up, which are exact. Learnt on the left
half, classified on the right: nuclei, or boxes of the same sizes, half a side to a side away from one, which overlap
none by an IoU of 0.3. Precision is another question here, among nuclei only: the 7 nearest of all other ways up should
be the same nucleus, by chance 2 %. Its surroundings turn with it, so what sees them has something to go by.
""",
}
_SPEED = """\
## Speed

One thread, from pixels in memory to the features of all levels; crops in batches of 8. {repeats} times in turn: the
median, in brackets the quartiles. *Boxes for even*: with so many boxes in an image RoIAlign at once the size takes as
long as the crops.
"""


@dataclass(frozen=True)
class Score:
    """One number of one draw."""

    boxed: str
    method: str
    level: str
    measure: str
    """accuracy or precision."""
    draw: int
    of: str
    """all, a third by size, or a kind."""
    value: float


@dataclass(frozen=True)
class Speed:
    """What a method took for some images with so many boxes together."""

    boxed: str
    method: str
    images: int
    boxes: int
    median_ms: float
    q1_ms: float
    q3_ms: float

    @property
    def image_ms(self) -> float:
        return self.median_ms / self.images


def page(sets: Sequence[Boxed], found: Sequence[Score], took: Sequence[Speed], facts: Mapping[str, object]) -> str:
    """All of the results as Markdown."""
    parts = [_HEAD.format(**facts)]
    for boxed in sets:
        own = [one for one in found if one.boxed == boxed.name]
        nearest = f"### Precision at {boxed.nearest}\n"
        parts += [f"## {boxed.name}\n", _ABOUT[boxed.name], _counts_table(boxed)]
        parts += ["### Accuracy\n", _levels_table(own, "accuracy"), nearest, _levels_table(own, "precision")]
        parts += ["### By size, and against RoIAlign\n", _BY_SIZE, _sizes_table(own, "accuracy", boxed)]
        parts += [_sizes_table(own, "precision", boxed)]
    parts += [_SPEED.format(**facts), _speeds_table(took)]
    return "\n".join(parts)


def summary(sets: Sequence[Boxed], found: Sequence[Score], took: Sequence[Speed]) -> str:
    """What the documentation shows of it."""
    columns = [(boxed.name, measure) for boxed in sets for measure in ("accuracy", "precision")]
    together, best, times = [], [], []
    for method in dict.fromkeys(one.method for one in found):
        means = {(one, level): _mean_of(found, *one, method, level) for one in columns for level in LEVELS}
        together.append([method, *(_percent(means[one, JOINED]) for one in columns)])
        highest = [max((means[one, level], level) for level in STRIDES) for one in columns]
        best.append([method, *(f"{_percent(mean)} ({level})" if mean >= 0 else "" for mean, level in highest)])
    for method in dict.fromkeys(one.method for one in took):
        own = {one.boxed: one for one in took if one.method == method}
        times.append([method, *(f"{own[one.name].image_ms:.0f}" if one.name in own else "" for one in sets)])
    counted = [next(one for one in took if one.boxed == boxed.name) for boxed in sets]
    images = [f"{one.boxed}, {one.boxes / one.images:.0f} boxes" for one in counted]
    head = ["", *(f"{name}, {measure}" for name, measure in columns)]
    return "\n".join(
        [
            f"Levels {JOINED} side by side, percent:\n",
            table(head, together),
            "The best single level, and which:\n",
            table(head, best),
            "Milliseconds for an image, one thread:\n",
            table(["", *images], times),
        ]
    )


def _mean_of(found: Sequence[Score], boxed: str, measure: str, method: str, level: str) -> float:
    """Over the draws; below zero if there are none."""
    values = _values([one for one in found if one.boxed == boxed], measure, method, level, "all")
    return statistics.mean(values) if values else -1.0


def _percent(mean: float) -> str:
    return f"{100 * mean:.1f}" if mean >= 0 else ""


_BY_SIZE = f"""\
Levels {JOINED}. Thirds are those of each kind by the root of the area, as in the first table. *More than RoIAlign*:
the difference in the same draws.
"""


def _counts_table(boxed: Boxed) -> str:
    sizes, kinds = (torch.cat([getattr(one, name) for one in boxed.scenes]) for name in ("boxes_xyxy", "kinds"))
    counts = torch.tensor([len(one.kinds) for one in boxed.scenes])
    for_test = torch.tensor([one.for_test for one in boxed.scenes]).repeat_interleave(counts)
    third, sides = thirds(sizes, kinds), side_px(sizes)
    lines = []
    for index, kind in enumerate(boxed.kinds):
        own = kinds == index
        limits = [sides[own & (third == part)] for part in range(3)]
        spans = [f"{float(some.min()):.0f} to {float(some.max()):.0f}" if len(some) else "" for some in limits]
        lines.append([kind, str(int((own & ~for_test).sum())), str(int((own & for_test).sum())), *spans])
    return table(["kind", "boxes to learn from", "for the test", *(f"{name}, px" for name in THIRDS)], lines)


def _levels_table(own: Sequence[Score], measure: str) -> str:
    lines = []
    for method in dict.fromkeys(one.method for one in own if one.measure == measure):
        values = [_values(own, measure, method, level, "all") for level in LEVELS]
        lines.append([method, *(_shown(some) for some in values)])
    return table(["", *(_level_name(level) for level in LEVELS)], lines)


def _sizes_table(own: Sequence[Score], measure: str, boxed: Boxed) -> str:
    columns = [*THIRDS, *(boxed.kinds if len(boxed.kinds) > 2 else ())]
    lines = []
    for method in dict.fromkeys(one.method for one in own if one.measure == measure and one.level == JOINED):
        values = _values(own, measure, method, JOINED, "all")
        ahead = [a - b for a, b in zip(values, _values(own, measure, REFERENCE, JOINED, "all"), strict=True)]
        cells = [_shown(_values(own, measure, method, JOINED, name)) for name in columns]
        lines.append([method, _shown(values), "" if method == REFERENCE else _shown(ahead, "+"), *cells])
    return table([measure, "all", "more than RoIAlign", *columns], lines)


def _values(own: Sequence[Score], measure: str, method: str, level: str, of: str) -> list[float]:
    """By draw."""
    wanted = (measure, method, level, of)
    return [one.value for one in own if (one.measure, one.method, one.level, one.of) == wanted]


def _shown(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    mean, least, most = (f"{100 * value:{sign}.1f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({least} to {most})"


def _level_name(level: str) -> str:
    return f"stride {level}" if level.isdigit() else level


def _speeds_table(took: Sequence[Speed]) -> str:
    def lines() -> Iterator[list[str]]:
        for one in took:
            [reference] = [other for other in took if (other.boxed, other.method) == (one.boxed, REFERENCE)]
            even = reference.image_ms / (one.median_ms / one.boxes)
            yield [
                one.boxed,
                one.method,
                f"{one.images} with {one.boxes / one.images:.0f} boxes each",
                f"{one.image_ms:.0f} ({one.q1_ms / one.images:.0f} to {one.q3_ms / one.images:.0f})",
                f"{1000 / one.image_ms:.2f}",
                f"{1000 * one.boxes / one.median_ms:.0f}",
                f"{one.image_ms / reference.image_ms:.1f}",
                f"{even:.1f}" if one.method.startswith("Crop") else "",
            ]

    head = ["", "method", "images", "ms an image", "images a second", "boxes a second", "times RoIAlign"]
    return table([*head, "boxes for even"], lines())
