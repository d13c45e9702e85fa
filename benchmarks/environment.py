"""Where a result comes from: the machine, the versions, the commit and the day."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import torch
import torchvision

import roialign

_ROOT = Path(__file__).parent.parent
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def environment() -> dict[str, str]:
    """The columns that every row of the results has."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {memory_gb:.0f} GB",
        "cpu": _cpu_fact("model name") or platform.processor() or platform.machine(),
        "cpu_flags": " ".join(flag for flag in _TELLING_FLAGS if flag in _cpu_flags()),
        "huge_pages": _huge_pages(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "roialign": roialign.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


class Neighbours:
    """Counts what other processes use of the processors from the making of it on: they spoil times."""

    def __init__(self) -> None:
        self._begin_s, self._begin_others_s = time.monotonic(), _others_cpu_s()

    def cpus(self) -> float:
        """How many processors the others kept busy, on average."""
        others_s = _others_cpu_s() - self._begin_others_s
        return max(0.0, others_s / (time.monotonic() - self._begin_s))


def _others_cpu_s() -> float:
    """The processor time of the machine since it started, without that of this process and its ended children."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    own = os.times()
    own_s = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own_s


def _cpu_flags() -> list[str]:
    return (_cpu_fact("flags") or _cpu_fact("Features")).split()


def _cpu_fact(name: str) -> str:
    """What /proc/cpuinfo says under this name, or nothing."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _huge_pages() -> str:
    """When the kernel uses transparent huge pages: always, madvise or never."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text().partition("[")[2].partition("]")[0] if setting.exists() else "never"


def _commit() -> str:
    """The commit, with a + where the tree differs from it in more than results."""
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True).stdout.strip()
