"""How often the doctor is right when it says how sure it is."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib import rc_context
from matplotlib.figure import Figure

from .doctor_alarms import Watched
from .doctor_cases import Program
from .report import table

_BOUNDS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0, math.inf)  # of odds
_Z = 1.96  # of the 95 % interval
_ENDS = (0.03, 0.9997)  # of the axes; what lies beyond is drawn at the edge
_TICKS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999)
_SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign", "axes.spines.top": False, "axes.spines.right": False}
_COLOUR, _GREY = "#0b62a4", "#555555"


@dataclass(frozen=True)
class Weighed:
    """The first finding of a call, whose odds were stated."""

    odds: float
    right: bool

    @property
    def stated(self) -> float:
        """The probability that these odds state."""
        return 1.0 if math.isinf(self.odds) else self.odds / (1 + self.odds)


@dataclass(frozen=True)
class Point:
    """The findings of one range of odds."""

    least: float
    below: float
    count: int
    right: int
    stated: float
    """The mean of the stated probabilities."""

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        n, share = self.count, self.share
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        return middle - half, middle + half


def verdicts_weighed(programs: Iterable[Program], watched: Iterable[Watched]) -> list[Weighed]:
    """The first findings of all calls in all ways that have odds; what is found in a healthy call is wrong."""
    found = []
    for program in programs:
        for case in program.cases:
            firsts = [verdict.said[0] for verdict in case.verdicts.values() if verdict.said and case.harmful]
            found += [Weighed(one.odds, one.code in case.codes) for one in firsts if one.odds is not None]
        found += [Weighed(one.odds, False) for one in program.alarms if one.first and one.odds is not None]
    for run in watched:
        found += [Weighed(one.odds, False) for one in run.alarms if one.first and one.odds is not None]
    return found


def curve(weighed: Sequence[Weighed]) -> list[Point]:
    """A point for each range of odds that has findings."""
    points = []
    for least, below in pairwise(_BOUNDS):
        own = [one for one in weighed if least <= one.odds < below or (math.isinf(below) and math.isinf(one.odds))]
        if own:
            stated = sum(one.stated for one in own) / len(own)
            points.append(Point(least, below, len(own), sum(one.right for one in own), stated))
    return points


def as_table(points: Sequence[Point]) -> str:
    rows = []
    for point in points:
        odds = f"{point.least:g} and more" if math.isinf(point.below) else f"{point.least:g} to {point.below:g}"
        low, high = point.interval
        shares = [f"{100 * point.share:.1f} % ({100 * low:.1f} to {100 * high:.1f})", f"{100 * point.stated:.1f} %"]
        rows.append([odds, str(point.count), *shares])
    return table(["stated odds", "findings", "right (95 % interval)", "stated"], rows)


def draw(points: Sequence[Point]) -> bytes:
    """The curve as an SVG image, on white so that it can be read on any page."""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.subplots()
        ends = (_logit(_ENDS[0]), _logit(_ENDS[1]))
        axes.plot(ends, ends, ":", color=_GREY, label="as sure as it is right")
        for point in points:
            x = _logit(point.stated)
            low, high = (_logit(side) for side in point.interval)
            axes.plot((x, x), (low, high), color=_COLOUR, linewidth=2)
            axes.plot(x, _logit(point.share), "o", color=_COLOUR, markersize=6, clip_on=False)
            axes.annotate(str(point.count), (x, low), (6, 0), textcoords="offset points", fontsize=9, color=_GREY)
        labels = [f"{100 * tick:g} %" for tick in _TICKS]
        axes.set_xticks([_logit(tick) for tick in _TICKS], labels)
        axes.set_yticks([_logit(tick) for tick in _TICKS], labels)
        axes.set(xlabel="how sure the doctor says that it is", ylabel="how often its first finding is right")
        axes.set(xlim=ends, ylim=ends)
        axes.grid(color="#dddddd")
        axes.legend(frameon=False, loc="upper left")
        image = io.BytesIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def _logit(share: float) -> float:
    held = min(max(share, _ENDS[0]), _ENDS[1])
    return math.log(held / (1 - held))
