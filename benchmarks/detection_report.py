"""The tables and the curves of whole detectors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .results import records_as_csv

if TYPE_CHECKING:
    from .detection import Training

SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign", "axes.spines.top": False, "axes.spines.right": False}
_COLOURS = {"roialign": "#0b62a4", "torchvision": "#d1601f"}
EVERY = 10  # steps are averaged
_BROAD = "AP", "AP50", "AP75"
Rows = Sequence[Mapping[str, Any]]


def as_csv(rows: Rows, where: Mapping[str, str]) -> str:
    """Every training, with where it was made; classes that it does not have are left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return records_as_csv([{**{name: row.get(name, "") for name in names}, **where} for row in rows])


def page(rows: Rows, trainings: Sequence[Training], where: Mapping[str, str]) -> str:
    """All of it as Markdown."""
    return (
        "# Whole detectors\n\nMade by `make bench-detection BCCD=DIR`; do not edit it.\n\n"
        f"- Machine: {where['cpu']}, {where['machine']}; torch {where['torch']}, torchvision {where['torchvision']}, "
        f"roialign at commit {where['commit']}, {where['date']}\n"
        "- One thread each, as many trainings at once as there are cores\n\n"
        f"![The loss of each training](detection.svg)\n\n{tables(rows, trainings)}"
    )


def tables(rows: Rows, trainings: Sequence[Training]) -> str:
    """Precision with both poolers, a table for each training."""
    parts = []
    for training in trainings:
        own = [row for row in rows if row["training"] == training.name]
        seeds = len({row["seed"] for row in own})
        command = f"python -m examples.detection.train {training.data} {' '.join(training.recipe)}"
        parts.append(f"{training.what}, `{command}`; {seeds} seeds, mean (least to most):\n\n")
        classes = [name for name in own[0] if name.startswith("AP50 ") and own[0][name] != ""]
        header = ["", "pooler", *_BROAD, *classes]
        parts += [f"| {' | '.join(header)} |\n| {' | '.join(['---'] * len(header))} |\n"]
        for (kind, pooler), some in groupby(sorted(own, key=_line), key=_line):
            of_line = list(some)
            values = [_spread([row[name] for row in of_line]) for name in (*_BROAD, *classes)]
            parts.append(f"| {' | '.join([kind, pooler, *values])} |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def draw(losses: Mapping[tuple[str, str, int], Sequence[float]]) -> str:
    """The loss against the step, a panel for each training, a line for each run."""
    names = list(dict.fromkeys(name for name, _, _ in losses))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for (training, pooler, seed), values in losses.items():
                if training == name:
                    smooth = [mean(values[at : at + EVERY]) for at in range(0, len(values), EVERY)]
                    steps = [at * EVERY for at in range(len(smooth))]
                    label = pooler if seed == 0 else None
                    axes.plot(steps, smooth, color=_COLOURS[pooler], linewidth=1, alpha=0.7, label=label)
            axes.set(title=name, xlabel="step", ylabel=f"loss, mean of {EVERY} steps", yscale="log")
            axes.grid(color="#dddddd")
            axes.legend(frameon=False)
        image = io.StringIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def _line(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["kind"], row["pooler"]


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
