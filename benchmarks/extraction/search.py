"""How often the nearest regions are of the same class: blood cells by EfficientNet-Lite0's ImageNet weights."""

from __future__ import annotations

import csv
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.results import RESULTS
from roialign.extraction import extract, nearest
from roialign.extraction import open as open_store

from .kept import Kept
from .sets import Boxed

MAPS = {"8": "2", "16": "3", "32": "4"}
"""Of timm's names, by stride."""
K = 10
Row = dict[str, Any]


def precisions(boxed: Boxed, most: int, kept: Kept, scratch: Path) -> Iterator[Row]:
    """Of each class and stride, with at most so many regions of a class as queries."""
    for stride, name in MAPS.items():
        yield from kept.result(
            f"search/stride {stride}",
            {"images": len(boxed.paths()), "most": most},
            partial(_of, boxed, name, stride, most, scratch),
        )


def of_crops() -> dict[str, float]:
    """By stride, the mean precision of crops that `make bench-crops` found for blood cells, where it was run."""
    path = RESULTS / "crops.csv"
    if not path.exists():
        return {}
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["boxed"] == "Blood cells" and row["measure"] == "precision"]
    wanted = [row for row in rows if row["method"] == "Crop, tight, 224 px" and row["of"] == "all"]
    draws = {row["level"]: [float(row[name]) for name in row if name.startswith("draw_")] for row in wanted}
    return {level: mean(values) for level, values in draws.items() if level in MAPS}


def _of(boxed: Boxed, level: str, stride: str, most: int, scratch: Path) -> list[Row]:
    from benchmarks.networks import efficientnet_lite0_module  # which imports much; the report imports this module

    out, weights = scratch / "searched", scratch / "efficientnet-lite0.pt"
    shutil.rmtree(out, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    torch.save(efficientnet_lite0_module().state_dict(), weights)
    options = {"maps": [level], "pretrained": False, "quiet": True}
    backbone = "timm/tf_efficientnet_lite0"
    extract(boxed.photos, boxes=boxed.annotations, backbone=backbone, weights=weights, out=out, **options)
    regions = open_store(out)
    of_class: dict[str, list[tuple[str, str]]] = {}
    for region in regions:
        of_class.setdefault(str(region.columns["label"]), []).append((region.image_id, region.box_id))
    found = []
    for label, members in sorted(of_class.items()):
        queries = random.Random(0).sample(members, min(most, len(members)))
        hits = [_share([one.region.columns["label"] for one in nearest(regions, query, K)], label) for query in queries]
        chance = [_elsewhere(of_class, query[0], label) for query in queries]
        found.append({"stride": stride, "class": label, "boxes": len(members), "queries": len(queries)})
        found[-1] |= {"precision": mean(hits), "random": mean(chance)}
        print(f"  stride {stride}, {label}: {found[-1]['precision']:.3f}", flush=True)
    return found


def _share(labels: list[Any], label: str) -> float:
    return labels.count(label) / len(labels)


def _elsewhere(of_class: dict[str, list[tuple[str, str]]], image_id: str, label: str) -> float:
    """The share of a class among the regions of other photographs."""
    counts = Counter({name: sum(one[0] != image_id for one in members) for name, members in of_class.items()})
    return counts[label] / counts.total()
