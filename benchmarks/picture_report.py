"""The readable page of what the picture's edges tell."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from .picture_cases import COUNTS, FAULTS, ODDS, SHARE_DRAWN, UNRELATED, Look, alarm
from .report import table

_HEAD = """\
# What the edges of a picture tell

Made by `{command}` in {minutes} minutes; do not edit it.

- Seed {seed}; versions: roialign {roialign} at commit {commit}, torch {torch}
- Machine: {machine}; day: {date}

People draw boxes around things, and where a thing ends the picture changes. `Edges.of(image).follow(boxes)` says how
much more likely what lies under boxes is if they were drawn around things of this picture than if they have nothing to
do with it. Here it is asked about boxes that are right, loose, faulty and unrelated, on pictures that its calibration
has not seen: {pictures}.

*The rule* takes a hypothesis for right if its likelihood ratio, mixed with that of boxes that nobody drew
({drawn:.0%} drawn), is more than {odds:g} times that of the boxes as called. *Hits* are the calls with a fault for
which the rule takes the hypothesis that undoes it. Boxes are drawn at random from those of a picture; `all` are up to
32.
"""
_HITS = """\
## Hits

Percent of the calls with the fault, by the number of boxes of the call. One call, one image; of several images through
one line the logarithms add up.
"""
_FIRST = """\
## The right one among all

Percent of the calls with the fault in which the rule takes the hypothesis that undoes it *and* no other of the {faults}
is ahead of it.
"""
_ALARMS = """\
## False alarms

Percent of the calls without a fault in which the rule takes *any* of the {faults} hypotheses; in brackets how often it
takes one, on average.
"""
_TAILS = """\
## Unrelated boxes

Whether the ratio is honest: in how many percent boxes that have nothing to do with the picture, as called and as every
hypothesis makes of them, reach a ratio of 20, which should be less than 5, and one of 400, less than 0.25. Boxes
{kinds}.
"""
_COSTS = """\
## Cost

Median milliseconds of processor time on one thread, a picture of 800 x 600, 32 boxes.
"""


def page(looks: Sequence[Look], costs_ms: Mapping[str, float], facts: Mapping[str, str]) -> str:
    """All of the results as Markdown."""
    pictures = _pictures(looks)
    head = _HEAD.format(
        command=f"python -m benchmarks.picture --seed {facts['seed']}",
        drawn=SHARE_DRAWN,
        odds=ODDS,
        pictures=", ".join(f"{count} calls on {kind}" for kind, count in pictures.items()),
        **facts,
    )
    kinds = list(pictures)
    sections = [head, _HITS, _by_fault(looks, kinds, _hit), _FIRST.format(faults=len(FAULTS))]
    sections += [_by_fault(looks, kinds, _first), _ALARMS.format(faults=len(FAULTS)), _alarms(looks, kinds)]
    sections += [_TAILS.format(kinds=", ".join(UNRELATED)), _tails(looks, kinds), _COSTS]
    costs = table(["", "ms"], [[name, f"{value:.1f}"] for name, value in costs_ms.items()])
    return "\n".join([*sections, costs])


def as_csv(looks: Sequence[Look], facts: Mapping[str, str]) -> str:
    """A row for each kind of picture, number of boxes, kind of boxes and hypothesis."""
    text = io.StringIO()
    columns = ["pictures", "boxes", "called", "hypothesis", "calls", "taken", "taken_unmixed"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *facts])
    groups: dict[tuple[str, int, str], list[Look]] = {}
    for look in looks:
        groups.setdefault((look.kind, look.count, look.called), []).append(look)
    for (kind, count, called), some in groups.items():
        for hypothesis in FAULTS:
            taken = [sum(alarm(look, hypothesis, mixed) for look in some) for mixed in (True, False)]
            writer.writerow([kind, count, called, hypothesis, len(some), *taken, *facts.values()])
    return text.getvalue()


def _pictures(looks: Iterable[Look]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for look in looks:
        counts[look.kind] = counts.get(look.kind, 0) + 1
    return counts


def _hit(look: Look) -> bool:
    return alarm(look, look.called, mixed=True)


def _first(look: Look) -> bool:
    return _hit(look) and look.hypotheses[look.called] >= max(look.hypotheses.values())


def _percent(values: Sequence[bool]) -> str:
    return f"{100 * sum(values) / len(values):.0f}" if values else ""


def _by_fault(looks: Sequence[Look], kinds: Sequence[str], judge: Callable[[Look], bool]) -> str:
    rows = []
    for fault in FAULTS:
        for kind in kinds:
            of_kind = [look for look in looks if (look.called, look.kind) == (fault, kind)]
            cells = [_percent([judge(look) for look in of_kind if look.count == count]) for count in COUNTS]
            rows.append([fault, kind, *cells])
    return table(["fault", "pictures", *_counts()], rows)


def _alarms(looks: Sequence[Look], kinds: Sequence[str]) -> str:
    rows = []
    for called in ("right", "loose, 5 %", "loose, 15 %", *UNRELATED):
        for kind in kinds:
            cells = []
            for count in COUNTS:
                some = [look for look in looks if (look.called, look.kind, look.count) == (called, kind, count)]
                taken = [[alarm(look, hypothesis, mixed=True) for hypothesis in FAULTS] for look in some]
                each = [one for row in taken for one in row]
                rate = (
                    f"{100 * sum(map(any, taken)) / len(taken):.1f} ({100 * sum(each) / len(each):.2f})" if some else ""
                )
                cells.append(rate)
            rows.append([called, kind, *cells])
    return table(["boxes", "pictures", *_counts()], rows)


def _tails(looks: Sequence[Look], kinds: Sequence[str]) -> str:
    rows = []
    for kind in kinds:
        cells = []
        for count in COUNTS:
            some = [look for look in looks if look.called in UNRELATED and (look.kind, look.count) == (kind, count)]
            ratios = [ratio for look in some for ratio in (look.as_called, *look.hypotheses.values())]
            shares = [
                100 * sum(ratio > math.log(least) for ratio in ratios) / max(len(ratios), 1) for least in (20, 400)
            ]
            cells.append(f"{shares[0]:.2f}, {shares[1]:.2f}" if ratios else "")
        rows.append([kind, *cells])
    return table(["pictures", *_counts()], rows)


def _counts() -> list[str]:
    return [*(f"{count}" for count in COUNTS[:-1]), "all"]
