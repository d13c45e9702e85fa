"""What a batch does to features: padded, and with images of one size together. Run by `python -m benchmarks.batching`.

Writes benchmarks/results/batching.md and .csv. `--most N` takes the first photographs only, and writes nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from roialign import Frame, RegionExtractor, RoIWarning
from roialign.regions import Pooled

from .environment import Neighbours, environment
from .networks import HALF, efficientnet_lite0_module
from .offsets import facts_of
from .photographs import as_tensor, load_photographs
from .report import table
from .results import records_as_csv, write_all

RESULTS = Path(__file__).parent / "results"
SHORTER_PX = (192, 224, 256, 320)
BATCH, ROUNDS, REPEATS = 8, 3, 5
BOXES = 8  # of each kind, for each photograph
NEAR_PX = 64
STRIDES = (8, 16, 32)
WAYS = {"padded": "pad", "by size": "by_size"}
_HEAD = """\
# Batches

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- EfficientNet-Lite0 with ImageNet weights, on {photographs} photographs (scikit-image, scikit-learn, deepforest), their
  shorter sides {shorter} pixels, in batches of {batch} in {rounds} orders, {sizes} sizes in all; {boxes} boxes of each
  photograph within {near} px of its right or lower edge, and as many elsewhere
- Machine: {cpu}, {machine}; {threads} threads; other processes kept {cpus_used_by_others:.1f} CPUs busy
- Versions: roialign {roialign} at commit {commit}, torch {torch}, timm {timm}, scikit-image {scikit-image},
  scikit-learn {scikit-learn}, deepforest 2.1.0
- Day: {date}

*Padded* is `RegionExtractor(..., batch="pad")`, *by size* the default. *Change*: of a box's feature against that of its
image alone, relative to its norm. *Not its own*: the share of boxes whose nearest neighbour, by cosine among the
features of all boxes alone, is another one's. *Reached*: the share with a `padding_distance` below 0.5.

## What changes

{changes}

## What it costs

Photographs in a second, the median of {repeats} passes over all of them in turn, least to most in brackets; what is
traced was traced before. Padding computes {more:.0f} % more pixels; by size more calls are made.

{speeds}
"""


@dataclass(frozen=True)
class Shown:
    """A photograph [3, H, W] and its boxes [2 * BOXES, 4], those near its far edges first."""

    image: Tensor
    boxes_xyxy: Tensor


@dataclass(frozen=True)
class Change:
    """What a way of batching does to the boxes of one stride in one place."""

    way: str
    stride: int
    place: str
    boxes: int
    median: float
    most: float
    above: float
    """The share that changes by more than 1e-5."""
    not_its_own: float
    reached: float


def shown(count: int | None) -> list[Shown]:
    """The photographs, resized, with boxes drawn from a fixed seed."""
    rng = random.Random(0)
    found = []
    for index, photograph in enumerate(load_photographs()[:count]):
        short = SHORTER_PX[index % len(SHORTER_PX)]
        height, width = Frame.image((photograph.height, photograph.width)).resize_shorter(short).size_hw
        image = as_tensor(photograph.resize((width, height)))
        rows = []
        for place in range(2 * BOXES):
            side_w, side_h = rng.uniform(24, 96), rng.uniform(24, 96)
            right, lower = rng.uniform(side_w, width), rng.uniform(side_h, height)
            if place < BOXES:
                right, lower = (width - rng.uniform(0, NEAR_PX), lower) if place % 2 else (
                    right, height - rng.uniform(0, NEAR_PX)
                )  # fmt: skip
            else:
                right, lower = min(right, width - NEAR_PX), min(lower, height - NEAR_PX)
            rows.append([right - side_w, lower - side_h, right, lower])
        found.append(Shown(image, torch.tensor(rows).clamp(min=0)))
    return found


def batches(photographs: Sequence[Shown], seed: int) -> Iterator[list[int]]:
    """The indices of the photographs of each batch, in an order of this seed."""
    order = random.Random(seed).sample(range(len(photographs)), len(photographs))
    yield from (order[first : first + BATCH] for first in range(0, len(order), BATCH))


def run(extractor: RegionExtractor, photographs: Sequence[Shown], chosen: Sequence[int]) -> Pooled:
    with torch.no_grad():
        return extractor([photographs[index].image for index in chosen], [photographs[i].boxes_xyxy for i in chosen])


def changes_of(extractors: dict[str, RegionExtractor], photographs: Sequence[Shown], stride: int) -> Iterator[Change]:
    """Of every way, for boxes near the far edges and for the others."""
    alone = [run(extractors["by size"], photographs, [index]).features.flatten(1) for index in range(len(photographs))]
    keys = normalize(torch.cat(alone), dim=1)
    for way, extractor in extractors.items():
        changes, own, reached, near = [], [], [], []
        for chosen in (some for seed in range(ROUNDS) for some in batches(photographs, seed)):
            pooled = run(extractor, photographs, chosen)
            features, wanted = pooled.features.flatten(1), torch.cat([alone[index] for index in chosen])
            rows = torch.cat([torch.arange(2 * BOXES) + 2 * BOXES * index for index in chosen])
            changes.append((features - wanted).norm(dim=1) / wanted.norm(dim=1))
            own.append((normalize(features, dim=1) @ keys.T).argmax(1) == rows)
            reached.append(pooled.padding_distance < 0.5)
            near.append(rows % (2 * BOXES) < BOXES)
        of_all, its_own, is_reached, is_near = map(torch.cat, (changes, own, reached, near))
        for place, mask in (("near the far edges", is_near), ("elsewhere", ~is_near)):
            some = of_all[mask]
            yield Change(
                way,
                stride,
                place,
                len(some),
                float(some.median()),
                float(some.max()),
                float((some > 1e-5).float().mean()),
                1 - float(its_own[mask].float().mean()),
                float(is_reached[mask].float().mean()),
            )


def speeds_of(extractors: dict[str, RegionExtractor], photographs: Sequence[Shown]) -> dict[str, list[float]]:
    """Photographs in a second, of each way in turn."""
    found: dict[str, list[float]] = {way: [] for way in extractors}
    for _ in range(REPEATS):
        for way, extractor in extractors.items():
            begin = time.perf_counter()
            for chosen in batches(photographs, 0):
                run(extractor, photographs, chosen)
            found[way].append(len(photographs) / (time.perf_counter() - begin))
    return found


def padded_share(photographs: Sequence[Shown]) -> float:
    """How many more pixels padding computes, of those that there are."""
    sizes = [[photographs[index].image.shape[1:] for index in chosen] for chosen in batches(photographs, 0)]
    padded = sum(len(some) * max(h for h, _ in some) * max(w for _, w in some) for some in sizes)
    return padded / sum(h * w for some in sizes for h, w in some) - 1


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def changes_table(changes: Sequence[Change]) -> str:
    columns = ["stride", "boxes", "batch", "change, median", "most", "above 1e-5", "not its own", "reached"]
    lines = [
        [
            str(one.stride),
            f"{one.place} ({one.boxes})",
            one.way,
            *(_percent(share) for share in (one.median, one.most, one.above, one.not_its_own)),
            _percent(one.reached),
        ]
        for one in changes
    ]
    return table(columns, lines)


def speeds_table(speeds: dict[str, list[float]]) -> str:
    return table(
        ["batch", "photographs in a second"],
        [[way, f"{statistics.median(some):.2f} ({min(some):.2f} to {max(some):.2f})"] for way, some in speeds.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, help="of the photographs; nothing is written")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RoIWarning)
    begin, neighbours = time.monotonic(), Neighbours()
    photographs = shown(options.most)
    module = efficientnet_lite0_module().eval()
    changes: list[Change] = []
    for index, stride in enumerate(STRIDES):
        extractors = {
            way: RegionExtractor(module, 7, batch=batch, mean=[HALF[0]] * 3, std=[HALF[1]] * 3, maps=[str(index)])  # type: ignore[arg-type]
            for way, batch in WAYS.items()
        }
        changes += changes_of(extractors, photographs, stride)
        print(f"[{time.monotonic() - begin:4.0f} s] stride {stride}", flush=True)
    speeds = speeds_of(extractors, photographs)
    tables = {"changes": changes_table(changes), "speeds": speeds_table(speeds)}
    if options.most:
        print(*tables.values(), sep="\n")
        return
    facts = {
        **facts_of("benchmarks.batching", begin),
        **tables,
        "photographs": len(photographs),
        "sizes": len({one.image.shape for one in photographs}),
        "shorter": ", ".join(map(str, SHORTER_PX)),
        "batch": BATCH,
        "rounds": ROUNDS,
        "repeats": REPEATS,
        "boxes": BOXES,
        "near": NEAR_PX,
        "threads": torch.get_num_threads(),
        "more": 100 * padded_share(photographs),
        "cpus_used_by_others": neighbours.cpus(),
    }
    machine = environment()
    rows = [{**asdict(one), "photographs_a_second": statistics.median(speeds[one.way]), **machine} for one in changes]
    contents = {"batching.md": _HEAD.format(**facts), "batching.csv": records_as_csv(rows)}
    write_all(RESULTS, {name: text.encode() for name, text in contents.items()})
    print(f"written to {RESULTS}: {', '.join(contents)}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
