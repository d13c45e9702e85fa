"""Features of boxes: RoIAlign on the maps of the image, or the network on crops. Run by `python -m benchmarks.crops`.

Writes benchmarks/results/crops.md and .csv. `--blood DIR` adds the blood cells of the BCCD data set, and writes the
tables of docs/crops.md too. `--most N` takes N boxes of each kind only, and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .crops_data import Boxed, Scene, load_cells, load_nuclei, load_tree_tiles
from .crops_features import JOINED, MASKED, Eye, Features, Levels, Method, RoIAlign, features_of, methods
from .crops_probe import predictions
from .crops_report import Score, Speed, page, summary
from .crops_scores import THIRDS, halved, macro, precision_at, thirds
from .environment import Neighbours, environment
from .networks import efficientnet_lite0_classifier
from .offsets import facts_of
from .results import DOCS, records_as_csv, with_tables, write_all
from .timing import Budget, time_in_turn

RESULTS = Path(__file__).parent / "results"
DRAWS = 5
MOST = 300  # boxes of each kind and split
TIMED, REPEATS = 3, 5  # images of each set


def every_feature(eye: Eye, boxed: Boxed) -> dict[str, Features]:
    """[K, C] of all boxes of a set, by method and level."""
    parts: dict[str, list[Features]] = {}
    has_masks = boxed.scenes[0].masks is not None
    for scene in boxed.scenes:
        for method, features in features_of(eye, methods(boxed.scales, has_masks), scene):
            parts.setdefault(method.name, []).append(features)
    return {
        name: {level: torch.cat([part[level] for part in some]) for level in some[0]} for name, some in parts.items()
    }


def scores(boxed: Boxed, features: dict[str, Features]) -> Iterator[Score]:
    """Of each method and level, in each draw of half of the groups."""
    kinds, things, groups, sizes = (
        torch.cat([getattr(scene, name) for scene in boxed.scenes])
        for name in ("kinds", "things", "groups", "boxes_xyxy")
    )
    counts = torch.tensor([len(scene.kinds) for scene in boxed.scenes])
    names = sorted({scene.photograph for scene in boxed.scenes})
    photographs = torch.tensor([names.index(scene.photograph) for scene in boxed.scenes]).repeat_interleave(counts)
    for_test = torch.tensor([scene.for_test for scene in boxed.scenes]).repeat_interleave(counts)
    third = thirds(sizes, kinds)
    for draw in range(DRAWS):
        half = halved(groups, draw)
        learnt, sought = half & ~for_test, half & (things >= 0)
        for method, levels in features.items():
            for level, rows in levels.items():
                of = (boxed.name, method, level)
                if MASKED not in method:  # the boxes beside nuclei have no masks
                    found = predictions(rows[learnt], kinds[learnt], groups[learnt], rows[for_test])
                    right = (found == kinds[for_test]).float()
                    yield from _in_groups(boxed, (*of, "accuracy", draw), right, kinds[for_test], third[for_test])
                near = precision_at(rows[sought], things[sought], photographs[sought], boxed.nearest)
                yield from _in_groups(boxed, (*of, "precision", draw), near, kinds[sought], third[sought])
        print(f"{boxed.name}: draw {draw + 1} of {DRAWS}", flush=True)


def _in_groups(
    boxed: Boxed, of: tuple[str, str, str, str, int], values: Tensor, kinds: Tensor, third: Tensor
) -> Iterator[Score]:
    yield Score(*of, "all", macro(values, kinds))
    for index, name in enumerate(THIRDS):
        yield Score(*of, name, macro(values[third == index], kinds[third == index]))
    for index, name in enumerate(boxed.kinds):
        yield Score(*of, name, macro(values[kinds == index], kinds[kinds == index]))


def speeds(eye: Eye, boxed: Boxed) -> Iterator[Speed]:
    """Of the methods that differ in what they compute, in turn, on one thread."""
    for_test = [scene for scene in boxed.scenes if scene.for_test]
    scenes = [for_test[index * len(for_test) // TIMED] for index in range(TIMED)]
    timed: list[Method] = [
        one
        for one in methods(boxed.scales, scenes[0].masks is not None)
        if not isinstance(one, RoIAlign) or one.pool in ("", MASKED)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    calls = {one.name: (lambda one=one: [_run(eye, one, scene) for scene in scenes]) for one in timed}
    found = time_in_turn(calls, Budget(REPEATS, 0))
    torch.set_num_threads(threads)
    boxes = sum(len(scene.kinds) for scene in scenes)
    for name, times in found.items():
        yield Speed(boxed.name, name, len(scenes), boxes, times.median_ms, times.q1_ms, times.q3_ms)


def _run(eye: Eye, method: Method, scene: Scene) -> Tensor:
    return method.features(eye, scene)[JOINED]


def loaders(blood: Path | None) -> list[Callable[[int], Boxed]]:
    """Of each set, with at most so many boxes of each kind and split."""
    return [*([partial(load_cells, blood)] if blood else []), load_tree_tiles, load_nuclei]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blood", type=Path, help="the folder of the BCCD data set")
    parser.add_argument("--most", type=int, help="boxes of each kind and split; nothing is written")
    options = parser.parse_args()
    begin, neighbours = time.monotonic(), Neighbours()
    eye = Eye(Levels(efficientnet_lite0_classifier()).eval())
    sets: list[Boxed] = []
    found: list[Score] = []
    took: list[Speed] = []
    for load in loaders(options.blood):
        boxed = load(options.most or MOST)
        features = every_feature(eye, boxed)
        print(f"[{time.monotonic() - begin:4.0f} s] {boxed.name}: features", flush=True)
        found += scores(boxed, features)
        took += speeds(eye, load(sys.maxsize))
        sets.append(boxed)
        print(f"[{time.monotonic() - begin:4.0f} s] {boxed.name}: scores and speeds", flush=True)
    facts = {
        **facts_of("benchmarks.crops", begin),
        "cpus_used_by_others": neighbours.cpus(),
        "draws": DRAWS,
        "repeats": REPEATS,
    }
    text = page(sets, found, took, facts)
    if options.most:
        print(text, summary(sets, found, took), sep="\n")
        return
    write_all(RESULTS, {"crops.md": text.encode(), "crops.csv": records_as_csv(records(found, took)).encode()})
    if options.blood:
        write_all(DOCS, {"crops.md": with_tables("crops.md", "crops", summary(sets, found, took))})
    print(f"written to {RESULTS}: crops.md, crops.csv; the tables of docs/crops.md, if there are blood cells")


def records(found: Sequence[Score], took: Sequence[Speed]) -> list[dict[str, object]]:
    """One for each score, all draws of it, and one for each time; parts of the boxes for the levels together only."""
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for one in found:
        if one.of == "all" or one.level == JOINED:
            fields = asdict(one)
            draw, value = fields.pop("draw"), fields.pop("value")
            rows.setdefault(tuple(fields.values()), fields)[f"draw_{draw}"] = value
    listed = [*rows.values(), *({**asdict(one), "measure": "time"} for one in took)]
    names = list(dict.fromkeys(name for row in listed for name in row))
    machine = environment()
    return [{**{name: row.get(name, "") for name in names}, **machine} for row in listed]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
