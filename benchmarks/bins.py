"""roi_pool, ps_roi_align and ps_roi_pool on the CPU against torchvision's: verified first, then timed.

`python -m benchmarks.roi_pool`, and so for the others, prints the table and writes it to benchmarks/results/; with
--quick the workloads are small, and nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import torchvision
from tests.ops import tolerances
from torch import Tensor

import roialign
from roialign.ops import library

from .environment import Neighbours, environment
from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION, Call
from .report import provenance, table
from .results import TimeRow, as_csv, write_all
from .timing import Budget, Times, time_in_turn
from .workloads import LAYOUTS, SAMPLING_RATIOS, WORKLOADS, Setting, Workload

RESULTS = Path(__file__).parent / "results"
TRAINING = "forward, to be differentiated"
FULL, QUICK = Budget(least_repeats=5, seconds=1.5), Budget(least_repeats=2, seconds=0.0)
(W1,) = (workload for workload in WORKLOADS if workload.name == "W1")
FINE_AND_COARSE = (W1, replace(W1, name="W1 at stride 16", strides=(16,), side_px=(12, 250)))
OWN_PLANES = {"roi_pool": 1, "ps_roi_align": 49, "ps_roi_pool": 49}  # channels that are read for one of the output
OUTPUT_CHANNELS = 8  # of those that read many


def workloads(operator: str, quick: bool) -> list[Workload]:
    """Maps as fine and as coarse as detectors have them, with channels for the operator."""
    found = FINE_AND_COARSE
    if OWN_PLANES[operator] > 1:
        channels = (1 if quick else OUTPUT_CHANNELS) * OWN_PLANES[operator]
        found = tuple(replace(workload, channels=channels) for workload in found)
    if not quick:
        return list(found)
    return [replace(workload, boxes=50, channels=min(workload.channels, 49)) for workload in found]


def pool_by(library_name: str, operator: str, features: Tensor, rois: Tensor, scale: float, setting: Setting) -> Tensor:
    functions = roialign if library_name == ROIALIGN else torchvision.ops
    ratio = (setting.sampling_ratio,) if operator == "ps_roi_align" else ()
    # torchvision's gradient of ps_roi_pool is another one, unless it is asked for.
    compat = {"compat": "torchvision"} if library_name == ROIALIGN and operator == "ps_roi_pool" else {}
    pool: Callable[..., Tensor] = getattr(functions, operator)
    return pool(features, rois, setting.workload.output_size, scale, *ratio, **compat)


def calls(operator: str, setting: Setting, pass_: str) -> dict[str, Call]:
    """What is timed: the same call by both libraries."""
    (level,) = setting.levels()
    features = level.features.requires_grad_(pass_ != FORWARD)

    def make(name: str) -> Call:
        def pool() -> Tensor:
            return pool_by(name, operator, features, level.rois, level.spatial_scale, setting)

        if pass_ != BACKWARD:
            return lambda: [pool()]
        output = pool()
        (upstream,) = setting.upstream_like([output])
        return lambda: torch.autograd.grad(output, features, upstream, retain_graph=True)

    return {name: make(name) for name in (ROIALIGN, TORCHVISION)}


def verify(operator: str, setting: Setting) -> None:
    """End the program unless features and gradients are torchvision's."""
    try:
        for pass_ in (FORWARD, BACKWARD):
            results = {name: call()[0] for name, call in calls(operator, setting, pass_).items()}
            tolerances.assert_close(results[ROIALIGN], results[TORCHVISION], results[TORCHVISION])
    except AssertionError as error:
        raise SystemExit(f"the results differ, so nothing is timed. {pass_} of {setting}: {error}") from error


def measure(operator: str, quick: bool) -> Iterator[TimeRow]:
    """All passes, layouts and, for what takes one, sampling ratios, on all threads; in NCHW also on one."""
    ratios = SAMPLING_RATIOS if operator == "ps_roi_align" else (0,)
    threads = torch.get_num_threads()
    for workload, ratio, layout in product(workloads(operator, quick), ratios, LAYOUTS):
        setting = Setting(workload, ratio, layout=layout)
        verify(operator, setting)
        passes = (FORWARD, TRAINING, BACKWARD) if operator == "roi_pool" else (FORWARD, BACKWARD)
        for pass_, count in product(passes, sorted({1, threads} if layout == "NCHW" else {threads}, reverse=True)):
            torch.set_num_threads(count)
            times = time_in_turn(calls(operator, setting, pass_), QUICK if quick else FULL)
            torch.set_num_threads(threads)
            print(f"{pass_} of {setting}, {count} threads: {_ratio(times):.1f}x", flush=True)
            options = (ratio, setting.dtype, layout, count)
            yield from (
                TimeRow(workload.name, workload.description, pass_, *options, name, own) for name, own in times.items()
            )


def _ratio(times: dict[str, Times]) -> float:
    return times[TORCHVISION].median_ms / times[ROIALIGN].median_ms


def times_table(rows: list[TimeRow], with_ratio: bool) -> str:
    """Milliseconds of both, and how many times as fast roialign is."""
    lines = []
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        ratio = [str(ours.sampling_ratio) if ours.sampling_ratio else "adaptive"] if with_ratio else []
        spread = [f"{t.median_ms:.3g} ({t.q1_ms:.3g} to {t.q3_ms:.3g})" for t in (ours.times, theirs.times)]
        speedup = f"{theirs.times.median_ms / ours.times.median_ms:.1f}x"
        lines.append([ours.workload, ours.pass_, *ratio, ours.layout, str(ours.threads), *spread, speedup])
    ratio_head = ["sampling_ratio"] if with_ratio else []
    return table(["workload", "pass", *ratio_head, "layout", "threads", ROIALIGN, TORCHVISION, "ratio"], lines)


def main(operator: str) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{operator}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small workloads, few repeats: only to see that it runs")
    quick = parser.parse_args().quick
    if library.why_no_cpu_kernels:
        raise SystemExit(f"nothing to measure: {library.why_no_cpu_kernels}")
    where, neighbours = environment(), Neighbours()
    rows = list(measure(operator, quick))
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    descriptions = "".join(f"- {name}: {text}\n" for name, text in {r.workload: r.description for r in rows}.items())
    times = times_table(rows, operator == "ps_roi_align")
    print(f"other processes kept {where['cpus_used_by_others']} CPUs busy meanwhile\n\n{times}")
    if not quick:
        head = (
            f"# {operator} on the CPU\n\n{provenance(where)}\nMilliseconds, float32: median (first to third quartile)."
        )
        page = f"{head}\n\n{descriptions}\n{times}"
        write_all(RESULTS, {f"{operator}.md": page.encode(), f"{operator}.csv": as_csv(rows, where).encode()})
