"""The most memory that one forward or backward takes above what was resident before.

Each is measured in a process of its own. Linux's high-water mark of resident memory is set back right before the call
and read right after it; it is exact to some hundred kilobytes only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from itertools import product
from pathlib import Path

import torch

from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION, Call, backward, forward
from .results import MemoryRow
from .workloads import DTYPES, Setting, Workload

_SAMPLING_RATIO = 2
_TINY = Workload("tiny", 4, (64, 64), (16,), 4, (16, 48), 2)


def measure(workload: Workload) -> list[MemoryRow]:
    """Both passes, types and implementations, in turn."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that not every process has to import torch
    rows = []
    with context.Pool(1, maxtasksperchild=1) as processes:
        for direction, dtype, implementation in product((FORWARD, BACKWARD), DTYPES, (ROIALIGN, TORCHVISION)):
            row = processes.apply(_measure_here, (workload, direction, dtype, implementation))
            print(
                f"memory of {direction} of {workload.name}, {dtype}, {implementation}: {row.extra_mb:.1f} MB",
                flush=True,
            )
            rows.append(row)
    return rows


def _measure_here(workload: Workload, direction: str, dtype: str, implementation: str) -> MemoryRow:
    """The memory that the first call in this process takes, but for a tiny one to warm up."""
    torch.ones(1 << 20).add_(1)  # starts the threads
    _call(_TINY, direction, dtype, implementation)()
    call = _call(workload, direction, dtype, implementation)
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still resident would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")
    before_mb = _peak_mb()
    result = call()
    extra_mb = _peak_mb() - before_mb
    result_mb = sum(tensor.nbytes for tensor in result) / 1e6
    return MemoryRow(workload.name, direction, _SAMPLING_RATIO, dtype, implementation, result_mb, extra_mb)


def _call(workload: Workload, direction: str, dtype: str, implementation: str) -> Call:
    setting = Setting(workload, _SAMPLING_RATIO, dtype)
    make = forward if direction == FORWARD else backward
    return make(implementation, setting.levels(), setting)


def _peak_mb() -> float:
    """The high-water mark of resident memory since it was set back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("expected VmHWM in /proc/self/status; got none: memory is measured on Linux only")
