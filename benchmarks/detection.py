"""Whole detectors trained with this library's pooler and with torchvision's: `make bench-detection BCCD=DIR`.

Every training is the example's own command, in a process of its own with one thread, as many at once as there are
cores, a seed's two poolers side by side. Goes on where it stopped: what is finished lies in --runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .detection_report import as_csv, draw, page, tables
from .environment import environment
from .results import DOCS, with_tables, write_all

RESULTS = Path(__file__).parent / "results"
SEEDS, POOLERS = (0, 1, 2), ("roialign", "torchvision")


@dataclass(frozen=True)
class Training:
    """One command, but for its pooler, its seed and its folder."""

    name: str
    what: str
    data: Path
    recipe: Sequence[str]


def trainings(bccd: Path, nuclei: Path) -> list[Training]:
    """As `make train-bccd` and `make train-nuclei` have them."""
    microscope = ("--any-way-up", "--deterministic")
    return [
        Training("bccd", "Faster R-CNN on blood cells", bccd, ("--split", "trainval", *microscope, "--epochs", "16")),
        Training("nuclei", "Mask R-CNN on nuclei", nuclei, ("--size", "256", "256", *microscope, "--epochs", "60")),
    ]


def run(training: Training, pooler: str, seed: int, folder: Path) -> str:
    """Train and test once, unless it is done already; a line about it."""
    scored = folder / "scores.json"
    if not scored.exists():
        command = [sys.executable, "-m", "examples.detection.train", str(training.data), *training.recipe]
        command += ["--pooler", pooler, "--seed", str(seed), "--threads", "1", "--out", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if status:
            raise SystemExit(f"expected {' '.join(command)} to end well; see {folder / 'log.txt'}")
    scores = json.loads(scored.read_text())
    told = ", ".join(f"AP50 of {kind} {of_kind['AP50']:.3f}" for kind, of_kind in scores.items())
    return f"{training.name}, {pooler}, seed {seed}: {told}"


def rows_of(training: Training, pooler: str, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """One row for boxes and, where there are some, one for masks."""
    for kind, scores in json.loads((folder / "scores.json").read_text()).items():
        yield {"training": training.name, "pooler": pooler, "seed": seed, "kind": kind, **scores}


def losses_of(folder: Path) -> list[float]:
    """The loss of each step."""
    lines = map(json.loads, (folder / "losses.jsonl").read_text().splitlines())
    return [sum(value for name, value in line.items() if name != "step") for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bccd", type=Path, required=True, help="the folder of the BCCD data set")
    parser.add_argument("--nuclei", type=Path, default=Path("demo/data/nuclei"), help="as make train-nuclei writes it")
    parser.add_argument("--runs", type=Path, default=Path("demo/detection"), help="where the trainings are")
    parser.add_argument("--only", help="the training of this name, bccd or nuclei")
    options = parser.parse_args()
    where = environment()
    chosen = [one for one in trainings(options.bccd, options.nuclei) if options.only in (None, one.name)]
    jobs = [
        (training, pooler, seed, options.runs / f"{training.name}-{pooler}-{seed}")
        for training in chosen
        for seed in SEEDS
        for pooler in POOLERS
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, line in enumerate(pool.map(lambda job: run(*job), jobs), start=1):
            print(f"{number} of {len(jobs)}: {line}", flush=True)
    rows = [row for job in jobs for row in rows_of(*job)]
    losses = {(training.name, pooler, seed): losses_of(folder) for training, pooler, seed, folder in jobs}
    commands = [replace(one, data=Path(one.name.upper())) for one in chosen]
    figure = draw(losses).encode()
    contents = {
        "detection.md": page(rows, commands, where).encode(),
        "detection.csv": as_csv(rows, where).encode(),
        "detection.svg": figure,
    }
    write_all(RESULTS, contents)
    write_all(DOCS / "assets", {"detection.svg": figure})
    write_all(DOCS, {"detection.md": with_tables("detection.md", "detection", tables(rows, commands))})


if __name__ == "__main__":
    main()
