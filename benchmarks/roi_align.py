"""roi_align on the CPU against its peers: verified first, then measured. Run by `make bench`.

Writes times, peak memory, the distance to what the machine needs at least, and growth to benchmarks/results/. With
--quick or --only the results are not complete, and go to a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch

from roialign.ops import backends

from . import floor, growth, memory, plot, report
from .environment import Neighbours, environment
from .implementations import BACKWARD, FORWARD, ROIALIGN, calls, openvino_version
from .results import Row, TimeRow, as_csv, write_all
from .timing import Budget, Times, time_in_turn
from .verify import verify
from .workloads import DTYPES, LAYOUTS, SAMPLING_RATIOS, WORKLOADS, Setting, Workload

RESULTS = Path(__file__).parent / "results"
GROWTH = "growth"
FULL, FULL_GROWTH = Budget(least_repeats=5, seconds=2.0), Budget(least_repeats=2, seconds=1.0)
MOST_CPUS_OF_OTHERS = 0.1
QUICK = Budget(least_repeats=2, seconds=0.0)


def settings(workload: Workload) -> list[Setting]:
    """All that is timed of a workload."""
    return [Setting(workload, *options) for options in product(SAMPLING_RATIOS, DTYPES, LAYOUTS)]


def verify_all(workloads: Sequence[Workload]) -> None:
    """End the program if one result is wrong."""
    for workload in workloads:
        for setting in settings(workload):
            print(f"verifying {setting}", flush=True)
            verify(setting)


def time_all(workload: Workload, budget: Budget) -> Iterator[TimeRow]:
    """All settings on all threads; float32 in NCHW also on one."""
    all_threads = torch.get_num_threads()
    try:
        for setting in settings(workload):
            levels = setting.levels()
            in_detail = (setting.dtype, setting.layout) == ("float32", "NCHW")
            for threads in sorted({all_threads, 1} if in_detail else {all_threads}, reverse=True):
                torch.set_num_threads(threads)
                for direction in (FORWARD, BACKWARD):
                    print(f"timing {direction} of {setting}, {threads} threads:", end=" ", flush=True)
                    times = time_in_turn(calls(direction, levels, setting, threads), budget)
                    print(_summary(times), flush=True)
                    yield from (_row(setting, direction, threads, name, own) for name, own in times.items())
    finally:
        torch.set_num_threads(all_threads)


def _row(setting: Setting, direction: str, threads: int, implementation: str, times: Times) -> TimeRow:
    workload = setting.workload
    options = (setting.sampling_ratio, setting.dtype, setting.layout, threads, implementation)
    return TimeRow(workload.name, workload.description, direction, *options, times)


def _summary(times: dict[str, Times]) -> str:
    ours_ms = times[ROIALIGN].median_ms
    others = [f"{own.median_ms / ours_ms:.1f}x to {name}" for name, own in times.items() if name != ROIALIGN]
    return f"{ours_ms:.3g} ms, {', '.join(others)} ({times[ROIALIGN].repeats} repeats)"


def run(arguments: argparse.Namespace) -> dict[str, bytes]:
    """Verify and measure; the contents of the files by their names."""
    where = {**environment(), "openvino": openvino_version() or "not installed"}
    wanted = [workload for workload in WORKLOADS if not arguments.only or workload.name in arguments.only]
    workloads = [workload.shrunk() for workload in wanted] if arguments.quick else wanted
    verify_all(workloads)
    peaks = [row for workload in workloads for row in memory.measure(workload)]
    floors = [row for workload in workloads for row in floor.measure(workload)]
    neighbours = Neighbours()
    times = [row for workload in workloads for row in time_all(workload, QUICK if arguments.quick else FULL)]
    grown = []
    if GROWTH in arguments.only or not arguments.only:
        grown = growth.measure(QUICK, points=3) if arguments.quick else growth.measure(FULL_GROWTH)
    others_cpus = neighbours.cpus()
    where["cpus_used_by_others"] = f"{others_cpus:.2f}"
    if others_cpus > MOST_CPUS_OF_OTHERS:
        print(f"other processes kept {others_cpus:.2f} CPUs busy meanwhile: do not trust these times, run it again")
    page = report.page(times, peaks, floors, where, with_growth=bool(grown))
    contents = {"roi_align.md": page.encode()}
    tables: dict[str, Sequence[Row]] = {"": times, "_memory": peaks, "_floor": floors, "_growth": grown}
    contents |= {f"roi_align{name}.csv": as_csv(rows, where).encode() for name, rows in tables.items() if rows}
    if grown:
        contents["roi_align_growth.svg"] = plot.draw(grown, where, torch.get_num_threads())
    return contents


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roi_align", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small workloads, few repeats: only to see that it runs")
    names = [*(workload.name for workload in WORKLOADS), GROWTH]
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="measure only these")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if backends.of_device("cpu") is None:
        raise SystemExit(f"nothing to measure: {backends.BACKENDS[0].why_not}")
    complete = not (arguments.quick or arguments.only)
    contents = run(arguments)
    folder = RESULTS if complete else Path(tempfile.mkdtemp(prefix="roialign-benchmark-"))
    write_all(folder, contents)
    print(f"written to {folder}: {', '.join(sorted(contents))}")


if __name__ == "__main__":
    main()
