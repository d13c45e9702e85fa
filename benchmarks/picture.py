"""How well the edges of a picture tell which frame and order boxes are in: `python -m benchmarks.picture`."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from roialign.doctor.picture import Edges

from .drawn import load_drawn
from .environment import environment
from .picture_cases import FAR, UNRELATED, Look, looks
from .picture_report import as_csv, page
from .results import write_all

RESULTS = Path(__file__).parent / "results"
COUNTS_FITTED = (1, 3, 8, 15)
REPEATS_FITTED = 4


def fit(found: list[Look]) -> dict[int, tuple[float, float]]:
    """Slope and offset for each number of boxes: logistic, each kind of picture and both sides of equal weight."""
    lines = {}
    for count in COUNTS_FITTED:
        scores, labels, weights = [], [], []
        for kind in {look.kind for look in found}:
            for drawn in (True, False):
                names = ("right",) if drawn else (*UNRELATED, *FAR, "scaled by 0.6", "scaled by 1.67")
                some = [
                    look.score for look in found if (look.kind, look.count) == (kind, count) and look.called in names
                ]
                scores += some
                labels += [float(drawn)] * len(some)
                weights += [1 / max(len(some), 1)] * len(some)
        lines[count] = _logistic(*(torch.tensor(some, dtype=torch.float64) for some in (scores, labels, weights)))
    return lines


def _logistic(scores: Tensor, labels: Tensor, weights: Tensor) -> tuple[float, float]:
    """The slope and the offset of log-odds that make the labels likeliest, by Newton's steps."""
    terms = torch.stack([scores, torch.ones_like(scores)], 1)
    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        likely = (terms @ line).sigmoid()
        curvature = terms.T @ (terms * (weights * likely * (1 - likely))[:, None])
        line = line + torch.linalg.solve(curvature, terms.T @ (weights * (labels - likely)))
    slope, offset = line.tolist()
    return slope, offset


def costs_ms(repeats: int = 15) -> dict[str, float]:
    """Median milliseconds, on one thread, for a picture of 800 x 600 and 32 boxes."""
    draws = torch.Generator().manual_seed(0)
    image = torch.rand(3, 600, 800, generator=draws)
    corner, size = torch.rand(100, 32, 2, generator=draws) * 400, torch.rand(100, 32, 2, generator=draws) * 200
    boxes = torch.cat([corner, corner + size], -1)
    edges, threads = Edges.of(image), torch.get_num_threads()
    torch.set_num_threads(1)
    calls: dict[str, Callable[[], object]] = {
        "Edges.of(image)": lambda: Edges.of(image),
        "follow, 1 hypothesis": lambda: edges.follow(boxes[:1]),
        "follow, 30 hypotheses": lambda: edges.follow(boxes[:30]),
        "follow, 100 hypotheses": lambda: edges.follow(boxes),
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(repeats + 2):
            begin = time.process_time()
            call()
            times.append(1000 * (time.process_time() - begin))
        found[name] = statistics.median(times[2:])
    torch.set_num_threads(threads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--blood",
        type=Path,
        default=os.environ.get("BCCD"),
        help="folder of the BCCD data set (Annotations/, JPEGImages/); left out where none is given",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="only print the calibration that fits best")
    options = parser.parse_args()
    begin = time.perf_counter()
    pictures = [drawn for drawn in load_drawn(options.blood) if drawn.fitted == options.fit]
    if options.fit:
        for count, (slope, offset) in fit(list(looks(pictures, options.seed, REPEATS_FITTED))).items():
            print(f"{count} boxes: slope {slope:.2f}, offset {offset:.2f}")
        return
    found = list(looks(pictures, options.seed))
    facts = {**environment(), "seed": str(options.seed), "minutes": f"{(time.perf_counter() - begin) / 60:.1f}"}
    text = page(found, costs_ms(), facts)
    write_all(RESULTS, {"picture.md": text.encode(), "picture.csv": as_csv(found, facts).encode()})
    print(text)


if __name__ == "__main__":
    main()
