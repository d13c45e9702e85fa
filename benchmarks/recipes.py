"""What longer and shorter trainings on blood cells reach, and what they take: `make bench-recipes BCCD=DIR`.

Every training is the example's own command, one after the other. What is finished lies in --runs, with its time.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .detection import RESULTS, losses_of
from .detection_report import EVERY, SETTINGS, as_csv
from .environment import Neighbours, environment
from .report import table
from .results import DOCS, with_tables, write_all

_COMMON = ("--split", "trainval", "--any-way-up", "--deterministic")
_COLOURS = "#0b62a4", "#d1601f", "#3f8f4f"
_HEAD = "# Trainings, shorter and longer\n\nMade by `make bench-recipes BCCD=DIR`; do not edit it.\n\n"
Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What is added to the command that all have in common."""

    name: str
    threads: int
    options: Sequence[str]

    @property
    def command(self) -> str:
        """As a person types it."""
        return f"python -m examples.detection.train BCCD {' '.join((*_COMMON, *self.options))}"


RECIPES = (
    Recipe("five minutes", 2, ("--epochs", "5")),
    Recipe("as make train-bccd", 2, ("--epochs", "16")),
    Recipe("an hour of one core", 1, ("--size", "480", "640", "--epochs", "20", "--threads", "1")),
)


def trained(recipe: Recipe, bccd: Path, folder: Path) -> Row:
    """Train and test, unless it is done already; what it took and reached, and where."""
    timed = folder / "timed.json"
    if not timed.exists():
        if folder.exists():
            raise SystemExit(f"expected a training from its start, for its time; {folder} has a part of one: remove it")
        command = [sys.executable, "-m", "examples.detection.train", str(bccd), *_COMMON, *recipe.options]
        begin, neighbours = time.monotonic(), Neighbours()
        subprocess.run([*command, "--out", str(folder)], check=True)
        took = {"minutes": (time.monotonic() - begin) / 60, "cpus_used_by_others": f"{neighbours.cpus():.1f}"}
        timed.write_text(json.dumps({**environment(), **took}))
    scores = json.loads((folder / "scores.json").read_text())["boxes"]
    where: Row = json.loads(timed.read_text())
    return {"recipe": recipe.name, "command": recipe.command, "threads": recipe.threads, **scores, **where}


def tables(rows: Sequence[Row]) -> str:
    """All recipes; then where each was run."""
    classes = [name for name in rows[0] if name.startswith("AP50 ")]
    head = ["", "added to the command", "minutes", "threads", "AP", "AP50", *classes]
    lines = [[*_named(row), *(f"{row[name]:.3f}" for name in ("AP", "AP50", *classes))] for row in rows]
    machines = "".join(f"- {row['recipe']}: {_where(row)}\n" for row in rows)
    return f"`python -m examples.detection.train BCCD {' '.join(_COMMON)}`:\n\n{table(head, lines)}\n{machines}"


def _named(row: Row) -> Iterator[str]:
    yield from (row["recipe"], f"`{row['command'].split(_COMMON[-1])[1].strip()}`")
    yield from (f"{row['minutes']:.1f}", str(row["threads"]))


def _where(row: Row) -> str:
    return (
        f"{row['cpu']}, {row['machine']}; torch {row['torch']}, commit {row['commit']}, {row['date']}; other processes "
        f"kept {row['cpus_used_by_others']} CPUs busy"
    )


def draw(losses: dict[str, list[float]]) -> str:
    """The loss against the step, a line for each recipe."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for colour, (name, values) in zip(_COLOURS, losses.items(), strict=True):
            smooth = [mean(values[at : at + EVERY]) for at in range(0, len(values), EVERY)]
            axes.plot([at * EVERY for at in range(len(smooth))], smooth, color=colour, linewidth=1, label=name)
        axes.set(xlabel="step of four photographs", ylabel=f"loss, mean of {EVERY} steps", yscale="log")
        axes.grid(color="#dddddd")
        axes.legend(frameon=False)
        image = io.StringIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bccd", type=Path, required=True, help="the folder of the BCCD data set")
    parser.add_argument("--runs", type=Path, default=Path("demo/recipes"), help="where the trainings are")
    options = parser.parse_args()
    folders = {recipe: options.runs / recipe.name.replace(" ", "-") for recipe in RECIPES}
    rows = [trained(recipe, options.bccd, folder) for recipe, folder in folders.items()]
    figure = draw({recipe.name: losses_of(folder) for recipe, folder in folders.items()}).encode()
    page = (
        f"# Trainings, shorter and longer\n\nMade by `make bench-recipes BCCD=DIR`; do not edit it.\n\n{tables(rows)}"
    )
    contents = {"recipes.md": page.encode(), "recipes.csv": as_csv(rows, {}).encode()}
    write_all(RESULTS, contents)
    write_all(DOCS / "assets", {"recipes.svg": figure})
    write_all(DOCS, {"detection.md": with_tables("detection.md", "recipes", tables(rows))})


if __name__ == "__main__":
    main()
