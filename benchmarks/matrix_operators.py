"""What the benchmarks of operators that no installed peer has on the CPU share: see roi_align_rotated.py.

They are measured as a multiple of roi_align's own time on upright boxes of the same sizes, against torchvision's
roi_align on those, and, with fewer channels and boxes, against the reference.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import torch
import torchvision
from tests.ops import tolerances
from torch import Tensor

import roialign

from .environment import Neighbours, environment
from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION, Call
from .report import provenance, table
from .results import TimeRow, as_csv, write_all
from .timing import Budget, Times, time_in_turn
from .workloads import LAYOUTS, SAMPLING_RATIOS, WORKLOADS, Level, Setting

RESULTS = Path(__file__).parent / "results"
REFERENCE, UPRIGHT = "reference", "roialign.roi_align"
SINGLE_LEVEL = [workload for workload in WORKLOADS if len(workload.strides) == 1]
Pool = Callable[[Tensor], Tensor]
Pools = Callable[[Level, Setting], tuple[Pool, Pool]]
"""Of a level: the operator and its reference, as functions of the features."""


def upright(level: Level, setting: Setting) -> dict[str, Pool]:
    """roi_align of the upright boxes, by roialign and by torchvision."""
    options = (setting.workload.output_size, level.spatial_scale, setting.sampling_ratio, True)
    return {
        UPRIGHT: lambda features: roialign.roi_align(features, level.rois, *options),
        TORCHVISION: lambda features: torchvision.ops.roi_align(features, level.rois, *options),
    }


def calls(direction: str, pools: dict[str, Pool], features: Tensor) -> dict[str, Call]:
    """What is timed; backward is the gradient to the features, with the forward done here, once."""

    def call(pool: Pool) -> Call:
        if direction == FORWARD:
            return lambda: [pool(features)]
        leaf = features.detach().requires_grad_()
        output = pool(leaf)
        upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
        return lambda: torch.autograd.grad(output, leaf, upstream, retain_graph=True)

    return {name: call(pool) for name, pool in pools.items()}


def verify(pools: Pools, setting: Setting) -> None:
    """End the program unless the operator's features and gradient are the reference's."""
    (level,) = setting.levels()
    ours, reference = pools(level, setting)
    both = {ROIALIGN: ours, REFERENCE: reference}
    try:
        for direction in (FORWARD, BACKWARD):
            results = {name: call() for name, call in calls(direction, both, level.features).items()}
            for actual, expected in zip(results[ROIALIGN], results[REFERENCE], strict=True):
                tolerances.assert_close(actual, expected, expected)
    except AssertionError as error:
        raise SystemExit(f"the results differ, so nothing is timed. {direction} of {setting}: {error}") from error


def time_all(pools: Pools, only: Sequence[str], budget: Budget, shrink: bool) -> Iterator[TimeRow]:
    chosen = [workload for workload in SINGLE_LEVEL if not only or workload.name in only]
    for workload, ratio, layout in product(chosen, SAMPLING_RATIOS, LAYOUTS):
        small = Setting(workload.shrunk(), ratio, layout=layout)
        verify(pools, small)
        for direction in (FORWARD, BACKWARD):
            for setting, with_reference in (
                (small, True),
                *([] if shrink else [(Setting(workload, ratio, layout=layout), False)]),
            ):
                (level,) = setting.levels()
                ours, reference = pools(level, setting)
                others = {REFERENCE: reference} if with_reference else upright(level, setting)
                times = time_in_turn(calls(direction, {ROIALIGN: ours} | others, level.features), budget)
                name = f"{workload.name}, shrunk" if with_reference else workload.name
                options = (ratio, setting.dtype, layout, torch.get_num_threads())
                print(f"{direction} of {name}, sampling_ratio {ratio}, {layout}: {_summary(times)}", flush=True)
                for implementation, own in times.items():
                    yield TimeRow(name, setting.workload.description, direction, *options, implementation, own)


def _summary(times: dict[str, Times]) -> str:
    ours_ms = times[ROIALIGN].median_ms
    others = [f"{own.median_ms / ours_ms:.2f}x to {name}" for name, own in times.items() if name != ROIALIGN]
    return f"{ours_ms:.3g} ms, {', '.join(others)}"


def main(operator: str, description: str, pools: Pools) -> None:
    """Verify, measure, and write benchmarks/results/OPERATOR.md and .csv, or to a temporary folder."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{operator}", description=description)
    parser.add_argument("--quick", action="store_true", help="small workloads, few repeats: only to see that it runs")
    names = [workload.name for workload in SINGLE_LEVEL]
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="measure only these")
    arguments = parser.parse_args()
    where, neighbours = environment(), Neighbours()
    budget = Budget(least_repeats=2, seconds=0.0) if arguments.quick else Budget(least_repeats=5, seconds=2.0)
    rows = list(time_all(pools, arguments.only, budget, arguments.quick))
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    page = f"# {operator} on the CPU\n\n{provenance(where)}\n{description}\n\n{_table(rows)}\n"
    complete = not (arguments.quick or arguments.only)
    folder = RESULTS if complete else Path(tempfile.mkdtemp(prefix="roialign-benchmark-"))
    write_all(folder, {f"{operator}.md": page.encode(), f"{operator}.csv": as_csv(rows, where).encode()})
    print(f"written to {folder}")


def _table(rows: Sequence[TimeRow]) -> str:
    groups: dict[tuple[str, ...], dict[str, Times]] = {}
    for row in rows:
        key = (row.workload, row.pass_, str(row.sampling_ratio or "adaptive"), row.layout)
        groups.setdefault(key, {})[row.implementation] = row.times
    names = [name for name in (UPRIGHT, TORCHVISION, REFERENCE) if any(name in own for own in groups.values())]
    lines = []
    for key, own in groups.items():
        ours = own[ROIALIGN]
        speedups = [f"{own[name].median_ms / ours.median_ms:.2f}x" if name in own else "" for name in names]
        lines.append([*key, f"{ours.median_ms:.3g} ({ours.q1_ms:.3g} to {ours.q3_ms:.3g})", *speedups])
    return table(["workload", "pass", "sampling_ratio", "layout", "ms", *(f"to {name}" for name in names)], lines)
