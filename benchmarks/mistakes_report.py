"""The table and the plot of what mistakes cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .mistakes_detectors import SIZE_HW, VARIANTS, Variant

_SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign", "axes.spines.top": False, "axes.spines.right": False}
_TRAINED, _USED, _RIGHT = "#0b62a4", "#d1601f", "#888888"
_SCORES = "AP", "AP50", "AP75", "AP small"
Rows = Sequence[Mapping[str, Any]]


def page(rows: Rows, where: Mapping[str, str], epochs: float) -> str:
    """The tables as Markdown."""
    seeds = len({row["seed"] for row in rows})
    return (
        "# What coordinate mistakes cost\n\n"
        "Made by `make bench-mistakes BCCD=DIR`; do not edit it.\n\n"
        f"- Machine: {where['cpu']}, {where['machine']}; torch {where['torch']}, torchvision {where['torchvision']}, "
        f"roialign at commit {where['commit']}, {where['date']}\n"
        f"- The Faster R-CNN of [examples/detection](../../examples/detection), pooling from its map of stride 8, on "
        f"photographs of blood cells at {SIZE_HW[0]} x {SIZE_HW[1]}; {epochs:g} epochs of `train`, tested on `test`; "
        f"{seeds} seeds: mean (least to most). *Small*: below 32 x 32 pixels of what enters the detector, platelets.\n"
        "- The doctor: what it says of the first training step, under `roialign.watch()`; in brackets in how many of "
        "the seeds\n\n"
        f"![AP with each mistake](mistakes.svg)\n\n{tables(rows)}"
    )


def tables(rows: Rows) -> str:
    """What each mistake costs, trained with and used with."""
    return (
        f"## Trained with it\n\n{_table(rows, _trained_with)}\n"
        f"## Trained correctly, used with it\n\n{_table(rows, _used_with)}"
    )


def draw(rows: Rows) -> str:
    """AP of every run, a line for each mistake."""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        axes = figure.subplots()
        for height, variant in enumerate(VARIANTS):
            right = variant.change is None
            for of_mistake, colour, shift in ((_trained_with, _TRAINED, -0.13), (_used_with, _USED, 0.13)):
                own = of_mistake(rows, variant)
                if own and not (right and of_mistake is _used_with):
                    label = "trained with it" if of_mistake is _trained_with else "trained correctly, used with it"
                    style = (_RIGHT, "trained and used correctly", 0.0) if right else (colour, label, shift)
                    values = [row["AP"] for row in own]
                    axes.barh(height + style[2], sum(values) / len(values), 0.26, color=style[0], alpha=0.45)
                    axes.plot(
                        values, [height + style[2]] * len(values), "o", color=style[0], markersize=5, label=style[1]
                    )
        axes.set_yticks(range(len(VARIANTS)), [variant.name for variant in VARIANTS])
        axes.invert_yaxis()
        axes.set(xlabel="AP on the test photographs, a dot for each seed", xlim=(0, None))
        axes.grid(axis="x", color="#dddddd")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=3, frameon=False)
        image = io.StringIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def _trained_with(rows: Rows, variant: Variant) -> Rows:
    return [row for row in rows if row["trained"] == row["used"] == variant.name]


def _used_with(rows: Rows, variant: Variant) -> Rows:
    """Right detectors with this mistake made in use."""
    return [row for row in rows if row["used"] == variant.name and row["trained"] != variant.name]


def _table(rows: Rows, of_mistake: Any) -> str:
    with_doctor = of_mistake is _trained_with
    header = ["", "mistake", *(["the doctor"] if with_doctor else []), *_SCORES]
    lines = [header, ["---"] * len(header)]
    for variant in VARIANTS:
        if own := of_mistake(rows, variant):
            doctor = [_named(own)] if with_doctor else []
            lines.append(
                [variant.name, variant.what, *doctor, *(_spread([row[key] for row in own]) for key in _SCORES)]
            )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _named(rows: Rows) -> str:
    """The codes, each with the share of the runs that it was said in, where that is not all."""
    counts: dict[str, int] = {}
    for row in rows:
        for said in filter(None, row["named"].split(", ")):
            counts[said] = counts.get(said, 0) + 1
    of_all = len(rows)
    return ", ".join(said if count == of_all else f"{said} ({count} of {of_all})" for said, count in counts.items())


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"
