"""Verifies the GPU kernels, then times them: `python -m benchmarks.gpu [--out DIR] [--minutes 6]`.

Needs a CUDA GPU, torch with Triton, torchvision and this source tree. Each result is written when it is there, so that
a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import gc
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision
import triton

import roialign
from benchmarks.workloads import DTYPES, LAYOUTS
from roialign.ops import backends

from . import timing
from .checks import all_checks
from .checks_sampled import checks_of_samples
from .checks_taps import checks_of_taps
from .page import page
from .timing import ATOMIC, DETERMINISTIC, ROIALIGN

COMPILE_S = 45
RESULTS = Path(__file__).parent.parent / "results"
KEY = ("kind", "name", "pass", "sampling_ratio", "dtype", "layout", "implementation", "clock")
FIELDS = (*KEY, "median_ms", "q1_ms", "q3_ms", "repeats", "floor_ms", "note")


class Record:
    """The rows of the results, kept on the disk; those of another commit, machine or day are dropped."""

    def __init__(self, folder: Path, commit: str) -> None:
        self._path = folder / "gpu.csv"
        self._environment = environment(commit)
        self.rows: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if self._environment.items() <= row.items()]

    def has(self, **key: object) -> bool:
        wanted = {name: str(key.get(name, "")) for name in KEY}
        return any(all(row[name] == wanted[name] for name in KEY) for row in self.rows)

    def add(self, **fields: object) -> None:
        self.rows.append({name: _text(fields.get(name, "")) for name in FIELDS} | self._environment)
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*FIELDS, *self._environment], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _text(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def commit_here() -> str:
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def environment(commit: str) -> dict[str, str]:
    """The columns that every row has."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "torchvision": torchvision.__version__,
        "roialign": roialign.__version__,
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
    }


def verify(record: Record) -> bool:
    """Run the checks that have not passed yet; whether all have."""
    passed = True
    for name, check in (all_checks() | checks_of_taps() | checks_of_samples()).items():
        if record.has(kind="check", name=name):
            continue
        begin = time.monotonic()
        try:
            note = check() or ""
        except Exception as error:
            passed = False
            traceback.print_exc(limit=-3)
            print(f"FAILED  {name}: {str(error)[:500]}", flush=True)
            continue
        record.add(kind="check", name=name, note=note)
        print(f"passed  {name}, {time.monotonic() - begin:.1f} s  {note}", flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    return passed


def measure(record: Record, deadline: float) -> None:
    """Time what has not been timed, until the deadline."""
    bandwidth = timing.copy_bandwidth_gb_s()
    if not record.has(kind="bandwidth", name="copy"):
        record.add(kind="bandwidth", name="copy", note=f"{bandwidth:.0f} GB/s")
    for workload, images, dtype, layout, ratio in timing.settings():
        if time.monotonic() > deadline:
            print("the time is up; run again to go on")
            return
        setting = {"name": workload.name, "sampling_ratio": ratio, "dtype": dtype, "layout": layout}
        if record.has(kind="done", **setting):
            continue
        make = [timing.make_inputs(workload, images, DTYPES[dtype], LAYOUTS[layout], seed) for seed in range(2)]
        size = sum(one.numel() for one in (*make[0].maps, make[0].grad)) * make[0].grad.element_size()
        if 2 * size < timing.ROTATED_BYTES:
            count = min(int(timing.ROTATED_BYTES // size) + 1, 16)
            make += [timing.make_inputs(workload, images, DTYPES[dtype], LAYOUTS[layout], 2 + n) for n in range(count)]
        floors = timing.least_bytes(make[0], ratio)
        kinds = {ROIALIGN: timing.roialign_calls, ATOMIC: timing.torchvision_calls}
        for implementation, calls_of in kinds.items():
            every = [calls_of(inputs, ratio) for inputs in make]
            for pass_ in every[0]:
                row = {**setting, "kind": "time", "pass": pass_, "implementation": implementation, "clock": "events"}
                if not record.has(**row):
                    _time(record, row, [calls[pass_] for calls in every], floors.get(pass_, 0) / bandwidth / 1e6)
        for implementation, call in timing.wall_calls(make[0], ratio).items():
            row = {**setting, "kind": "time", "pass": "forward", "implementation": implementation, "clock": "wall"}
            if not record.has(**row):
                with roialign.set_policy("ignore"):
                    times = timing.time_by_wall(call, 15 if images == 1 else 5)
                record.add(**row, **vars(times))
                print(*setting.values(), "wall", implementation, f"{times.median_ms:.4f} ms", flush=True)
        record.add(kind="done", **setting)
        del make, every
        torch.cuda.empty_cache()
    workload, images, dtype, layout, ratio = next(timing.settings())
    setting = {"name": workload.name, "sampling_ratio": ratio, "dtype": dtype, "layout": layout}
    row = {**setting, "kind": "time", "pass": "both", "implementation": DETERMINISTIC, "clock": "events"}
    if not record.has(**row) and time.monotonic() + COMPILE_S < deadline:  # torchvision has it compiled by Inductor
        inputs = timing.make_inputs(workload, images, DTYPES[dtype], LAYOUTS[layout], 0)
        _time(record, row, [timing.deterministic_calls(inputs, ratio)["both"]], 0.0)


def _time(record: Record, row: dict[str, object], calls: list[timing.Call], floor_ms: float) -> None:
    try:
        times = timing.time_by_events(calls, 5 if row["implementation"] == DETERMINISTIC else 20)
    except torch.OutOfMemoryError:
        record.add(**row, note="out of memory")
        torch.cuda.empty_cache()
        return
    record.add(**row, **vars(times), floor_ms=floor_ms)
    shown = (row["name"], row["dtype"], row["layout"], row["pass"], row["implementation"])
    print(*shown, f"{times.median_ms:.4f} ms, floor {floor_ms:.4f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where gpu.csv and gpu.md are written")
    parser.add_argument("--minutes", type=float, default=6.0, help="when to stop timing")
    parser.add_argument("--commit", default=commit_here(), help="what this source tree is, where git does not know")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes - 20
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 1
    if backends.serving("roi_align", "cuda") == "reference":
        print(f"the kernels do not serve: {backends.BACKENDS[-1].why_not}", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = Record(arguments.out, arguments.commit)
    passed = verify(record)
    if passed:
        measure(record, deadline)
    text = page(record.rows)
    (arguments.out / "gpu.md").write_text(text)
    print(text)
    print("all checks passed" if passed else "CHECKS FAILED: nothing was timed")
    return not passed


if __name__ == "__main__":
    sys.exit(main())
