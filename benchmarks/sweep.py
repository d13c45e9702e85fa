"""Random calls of roi_align side by side with torchvision's: where is it slower? Part of `make bench`.

Sizes, numbers of channels and boxes, bins, samples, layouts and passes are drawn as they occur, small ones included.
Results are compared with torchvision's before a call is timed. Writes benchmarks/results/sweep.csv and sweep.md; with
other --seeds or --calls it only prints what it finds.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.markdown import Markdown
from tests.ops import tolerances

import roialign

from .environment import Neighbours, environment
from .implementations import Call
from .report import provenance
from .results import Drawn, SweepRow, as_csv, write_all
from .timing import mean_s

RESULTS = Path(__file__).parent / "results"
SEEDS, CALLS = (1, 2, 3, 4), 100
SLOWER = 0.95  # of torchvision's speed: below it a call counts as slower
_MOST_VALUES = 2**25
_LEAST_TURN_S = 2e-3


def draw(seed: int, count: int) -> Iterator[Drawn]:
    """`count` calls."""
    rng = random.Random(seed)
    for number in range(count):
        images = rng.choice([1, 1, 1, 2, 8])
        channels = rng.choice([1, 3, 16, 64, 96, 256, 384, 768, 1024, 2048])
        height = rng.choice([7, 14, 16, 25, 32, 38, 50, 64, 100, 128, 200])
        width = rng.choice([7, 14, 16, 25, 32, 50, 64, 84, 128, 200, 336])
        while images * channels * height * width > _MOST_VALUES:
            channels = max(1, channels // 2)
        boxes = rng.choice([1, 2, 5, 10, 36, 100, 300, 512, 1000])
        bins = rng.choice([1, 1, 2, 3, 7, 7, 7, 14, 14, 28, (1, 8), (3, 64)])
        bins_hw = (bins, bins) if isinstance(bins, int) else bins
        while boxes * channels * bins_hw[0] * bins_hw[1] > _MOST_VALUES:
            boxes = max(1, boxes // 2)
        ratio, aligned = rng.choice([-1, 0, 1, 2, 2, 4]), rng.random() < 0.5
        last = rng.random() < 0.25
        scale = rng.choice([1 / 4, 1 / 8, 1 / 16, 1 / 14, 1 / 32])
        backward = rng.random() < 0.4
        size = (images, channels, height, width, boxes, bins_hw)
        yield Drawn(seed, number, *size, ratio, aligned, last, backward, scale)


def calls(drawn: Drawn) -> tuple[Call, Call]:
    """roialign's and torchvision's, once their results were found equal."""
    generator = torch.Generator().manual_seed(drawn.number)
    features = torch.randn(drawn.images, drawn.channels, drawn.height, drawn.width, generator=generator)
    if drawn.channels_last:
        features = features.to(memory_format=torch.channels_last)
    map_wh = torch.tensor([float(drawn.width), float(drawn.height)])
    sides = torch.rand(drawn.boxes, 2, generator=generator) ** 2 * map_wh * 0.9 + 0.5
    corners = torch.rand(drawn.boxes, 2, generator=generator) * (map_wh - sides).clamp(min=0)
    index = torch.randint(0, drawn.images, (drawn.boxes, 1), generator=generator).float()
    rois = torch.cat([index, corners / drawn.spatial_scale, (corners + sides) / drawn.spatial_scale], 1)
    features.requires_grad_(drawn.backward)
    options = {
        "output_size": drawn.bins_hw,
        "spatial_scale": drawn.spatial_scale,
        "sampling_ratio": drawn.sampling_ratio,
        "aligned": drawn.aligned,
    }

    def forward(pool: Call) -> Call:
        return lambda: pool(features, rois, **options)

    ours, theirs = forward(roialign.roi_align), forward(torchvision.ops.roi_align)
    outputs = ours(), theirs()
    tolerances.assert_close(outputs[0].detach(), outputs[1].detach(), features.detach())
    if not drawn.backward:
        return ours, theirs
    upstream = torch.randn(outputs[0].shape, generator=generator)

    def backward(output: torch.Tensor) -> Call:
        return lambda: torch.autograd.grad(output, features, upstream, retain_graph=True)[0]

    ours, theirs = (backward(output) for output in outputs)
    expected = theirs()
    tolerances.assert_close(ours(), expected, expected)
    return ours, theirs


def measure(drawn: Drawn) -> SweepRow:
    """The median times of both, called in turn."""
    ours, theirs = calls(drawn)
    ours()
    once_s = mean_s(theirs, 1)
    repeats, inner = max(3, min(15, int(0.25 / max(once_s, 1e-5)))), max(1, int(_LEAST_TURN_S / max(once_s, 1e-6)))
    turns = [(mean_s(ours, inner), mean_s(theirs, inner)) for _ in range(repeats)]
    own, peer = (1000 * statistics.median(times) for times in zip(*turns, strict=True))
    return SweepRow(drawn, own, peer)


def summary(rows: Sequence[SweepRow]) -> str:
    """How many calls are slower, and how fast they are on the whole."""
    ratios = [row.ratio for row in rows]
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    return (
        f"{len(rows)} calls: {sum(ratio < SLOWER for ratio in ratios)} below {SLOWER}x, "
        f"{sum(ratio < 1 for ratio in ratios)} below 1x, geometric mean {mean:.2f}x, "
        f"median {statistics.median(ratios):.2f}x, least {min(ratios):.2f}x"
    )


def table(rows: Sequence[SweepRow]) -> str:
    """The slowest calls, as Markdown."""
    lines = ["| ratio | roialign | torchvision | map | boxes | bins | samples | pass |", "|---|" + "---|" * 7]
    for row in sorted(rows, key=lambda row: row.ratio)[:25]:
        one = row.call
        layout = "channels_last " if one.channels_last else ""
        lines.append(
            f"| {row.ratio:.2f}x | {row.roialign_ms:.3g} ms | {row.torchvision_ms:.3g} ms | {layout}{one.images} x "
            f"{one.channels} x {one.height} x {one.width} | {one.boxes} | {one.bins_hw[0]} x {one.bins_hw[1]} | "
            f"{one.sampling_ratio if one.sampling_ratio > 0 else 'adaptive'} | "
            f"{'backward' if one.backward else 'forward'} |"
        )
    return "\n".join(lines)


def page(rows: Sequence[SweepRow], where: dict[str, str]) -> str:
    """All of it as Markdown."""
    passes = [[row for row in rows if row.call.backward == backward] for backward in (False, True)]
    small = [row for row in rows if row.torchvision_ms < 0.05]
    parts = [
        "# Random calls\n",
        provenance(where),
        "## On the whole\n",
        f"- all: {summary(rows)}",
        *(f"- {name}: {summary(some)}" for name, some in zip(("forward", "backward"), passes, strict=True)),
        f"- those that take torchvision less than 0.05 ms: {summary(small)}\n",
        "## The slowest\n",
        table(rows),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--calls", type=int, default=CALLS, help="of each seed")
    arguments = parser.parse_args()
    roialign.set_policy("ignore")
    where, neighbours, rows = environment(), Neighbours(), []
    for seed in arguments.seeds:
        for drawn in draw(seed, arguments.calls):
            rows.append(measure(drawn))
            print(f"\rsweep: seed {seed}, {drawn.number + 1} of {arguments.calls}", end="", flush=True)
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    print(f"\r{summary(rows)}")
    Console().print(Markdown(table(rows)))
    if (tuple(arguments.seeds), arguments.calls) == (SEEDS, CALLS):
        records = as_csv(rows, where)
        write_all(RESULTS, {"sweep.csv": records.encode(), "sweep.md": page(rows, where).encode()})


if __name__ == "__main__":
    main()
