"""How fast libraries compute average precision, and whether it is pycocotools's: `make bench-evaluators BCCD=DIR`.

Of what a trained detector finds on the test photographs, many times over. Writes benchmarks/results/evaluators.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.detection.checkpoint import restore
from examples.detection.data import read
from examples.detection.evaluate import Results, as_truth, evaluate

from .environment import Neighbours, environment
from .report import table
from .results import RESULTS, write_all

PYCOCOTOOLS = "pycocotools"
EVALUATORS = {
    PYCOCOTOOLS: ("pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", "COCO", "ultrafast_pycocotools", "COCOeval"),
    "hotcoco": ("hotcoco", "COCO", "hotcoco", "COCOeval"),
}
"""By distribution, the modules and names of its two classes."""
COPIES, ROUNDS = 30, 5
_HEAD = """\
# Evaluators

Made by `make bench-evaluators BCCD=DIR`; do not edit it.

- {photographs} photographs with {detections:,} detections of the detector of `make train-bccd`: those of the test
  split, {copies} times
- Processor seconds of all threads, from lists in memory to precisions: median of {rounds} rounds in turn (least to
  most)
- Machine: {cpu}, {machine}; other processes kept {others:.1f} CPUs busy; commit {commit}, {date}

{rows}"""


def copied(truth: dict[str, Any], results: Results, copies: int) -> tuple[dict[str, Any], Results]:
    """The photographs so many times, each with its own number, and what was found in them."""
    count, marked = len(truth["images"]), len(truth["annotations"])
    images = [{**one, "id": one["id"] + count * turn} for turn in range(copies) for one in truth["images"]]
    annotations = [
        {**one, "id": one["id"] + marked * turn, "image_id": one["image_id"] + count * turn}
        for turn in range(copies)
        for one in truth["annotations"]
    ]
    found = [{**one, "image_id": one["image_id"] + count * turn} for turn in range(copies) for one in results]
    return {**truth, "images": images, "annotations": annotations}, found


def precisions(name: str, truth: dict[str, Any], results: Results) -> Callable[[], np.ndarray]:
    """A function that computes the precision by IoU, recall, class, area and number of detections."""
    data_module, data, module, evaluation = EVALUATORS[name]
    make_data, make = getattr(import_module(data_module), data), getattr(import_module(module), evaluation)

    def compute() -> np.ndarray:
        with redirect_stdout(StringIO()):
            if name == PYCOCOTOOLS:  # it takes no data from memory
                coco = make_data()
                coco.dataset = truth
                coco.createIndex()
            else:
                coco = make_data(truth)
            counted = make(coco, coco.loadRes([dict(one) for one in results]), "bbox")
            counted.evaluate()
            counted.accumulate()
        return np.asarray(counted.eval["precision"])

    return compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of the BCCD data set")
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/bccd/checkpoint.pt"))
    parser.add_argument("--copies", type=int, default=COPIES, help="of the photographs; nothing is written, if given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, classes = restore(options.checkpoint)
    photos = read(options.data, "test", classes)
    _, found = evaluate(model, photos)
    truth, results = copied(as_truth(photos), found, options.copies)
    ways, neighbours = {name: precisions(name, truth, results) for name in EVALUATORS}, Neighbours()
    expected = ways[PYCOCOTOOLS]()
    largest = {name: float(np.abs(compute() - expected).max()) for name, compute in ways.items()}
    times = {name: list[float]() for name in ways}
    for number in range(ROUNDS):
        for name in ways if number % 2 == 0 else reversed(ways):
            begin = time.process_time()
            ways[name]()
            times[name].append(time.process_time() - begin)
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    lines = []
    for name, own in times.items():
        spread = f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
        lines.append([f"{name} {version(name)}", spread, "" if name == PYCOCOTOOLS else f"{largest[name]:.1g}"])
    rows = table(["", "seconds", "largest difference of any precision"], lines)
    facts = {"copies": options.copies, "rounds": ROUNDS, "others": neighbours.cpus(), "rows": rows}
    facts |= {"photographs": len(truth["images"]), "detections": len(results)}
    page = _HEAD.format(**environment(), **facts)
    if options.copies == COPIES:
        write_all(RESULTS, {"evaluators.md": page.encode()})
    print(page)


if __name__ == "__main__":
    main()
