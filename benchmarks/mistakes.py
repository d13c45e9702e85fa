"""What coordinate mistakes cost a detector, and whether the doctor names them in its first step.

Run by `make bench-mistakes BCCD=DIR`. Each variant is trained with each seed and tested on photographs of blood cells;
detectors that were trained correctly are tested with each mistake of pooling, too. One process for each core, one
thread each. Goes on where it stopped: what is finished lies in --runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from examples.detection.checkpoint import Recipe
from examples.detection.data import Photos, read
from examples.detection.draws import seed_of
from examples.detection.evaluate import evaluate
from examples.detection.loop import Work, batches, first_step, fit
from examples.detection.model import seed_choices
from torchvision.models.detection import FasterRCNN

import roialign

from .environment import Neighbours, environment
from .mistakes_detectors import SIZE_HW, VARIANTS, Variant
from .mistakes_report import draw, page, tables
from .results import DOCS, records_as_csv, with_tables, write_all

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
SMALL_PX = 32 * 480 / SIZE_HW[0]  # of the photographs: 32 pixels of what enters the detector
_KEPT = "AP", "AP50", "AP75", "AP small"
Run = dict[str, Any]


def run(data: Path, variant: Variant, recipe: Recipe, folder: Path) -> list[Run]:
    """Train one variant with one seed; its scores, and those in use with each mistake of pooling if it is right."""
    photos = read(data, "train")
    tested = read(data, "test", photos.classes)
    torch.manual_seed(seed_of(recipe.seed, 4))
    model = variant.build(len(photos.classes))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    named = _named(model, photos, recipe, folder)
    model.load_state_dict(weights)
    model = fit(model, photos, recipe, Work(folder, torch.device("cpu"), doctor=False), say=lambda line: None)
    shutil.rmtree(folder)
    rows = [_row(variant, variant.name, recipe, named, model, tested)]
    if variant.change is None:
        for other in VARIANTS:
            if other.change is not None and other.of_pooling and other.stride_7 == variant.stride_7:
                used = other.build(len(photos.classes))
                used.load_state_dict(model.state_dict())
                rows.append(_row(variant, other.name, recipe, "", used, tested))
    return rows


def _named(model: FasterRCNN, photos: Photos, recipe: Recipe, folder: Path) -> str:
    """What the doctor says of the first step: the codes of its errors and warnings."""
    work = Work(folder, torch.device("cpu"))
    (batch,) = batches(photos, recipe, work, 0, 1)
    seed_choices(model, recipe.seed, range(recipe.batch))
    with roialign.watch() as report:
        first_step(model.train(), batch)
    said = {f"{finding.code} {finding.severity}": None for finding in report.findings}
    return ", ".join(said)


def _row(trained: Variant, used: str, recipe: Recipe, named: str, model: FasterRCNN, tested: Photos) -> Run:
    scores = evaluate(model, tested, SMALL_PX)[0]["boxes"]
    return {"trained": trained.name, "used": used, "seed": recipe.seed, "named": named} | {
        key: scores[key] for key in _KEPT
    }


def _worker(arguments: tuple[Path, int, Recipe, Path]) -> str:
    data, index, recipe, runs = arguments
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    name = f"{index}-{recipe.seed}"
    (runs / name).mkdir(parents=True, exist_ok=True)
    rows = run(data, VARIANTS[index], recipe, runs / name)
    part = runs / f".{name}.part"
    part.write_text(json.dumps(rows))
    part.replace(runs / f"{name}.json")
    return f"{VARIANTS[index].name}, seed {recipe.seed}: AP {rows[0]['AP']:.3f}, named {rows[0]['named'] or 'nothing'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of the BCCD data set")
    parser.add_argument("--runs", type=Path, default=Path("demo/mistakes"), help="where finished trainings are noted")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at once, of one thread each")
    options = parser.parse_args()
    where, neighbours = environment(), Neighbours()
    jobs = []
    trained = [index for index, variant in enumerate(VARIANTS) if variant.learnt]
    for seed, index in product(SEEDS, trained):
        recipe = Recipe(seed=seed, epochs=options.epochs, size_hw=SIZE_HW, any_way_up=True)
        if not (options.runs / f"{index}-{seed}.json").exists():
            jobs.append((options.data, index, recipe, options.runs))
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for number, line in enumerate(pool.map(_worker, jobs), start=1):
            print(f"{number} of {len(jobs)}: {line}", flush=True)
    finished = (options.runs / f"{index}-{seed}.json" for index, seed in product(trained, SEEDS))
    rows = [row for path in finished for row in json.loads(path.read_text())]
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    figure = draw(rows).encode()
    contents = {
        "mistakes.md": page(rows, where, options.epochs).encode(),
        "mistakes.csv": records_as_csv([row | where for row in rows]).encode(),
        "mistakes.svg": figure,
    }
    write_all(RESULTS, contents)
    write_all(DOCS / "assets", {"mistakes.svg": figure})
    write_all(DOCS, {"mistakes.md": with_tables("mistakes.md", "mistakes", tables(rows))})


if __name__ == "__main__":
    main()
