"""A process with all that it started: what memory they take, and which of them there are. Linux's /proc."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.1


@dataclass
class Peak:
    """The most that a command and its processes took at once."""

    pss_mb: float = 0.0
    """Proportional: what processes share is counted once."""
    rss_mb: float = 0.0
    """The sum of what is resident in each: what they share is counted in each."""
    processes: int = 0
    seconds: float = 0.0


def family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    found, index = [pid], 0
    while index < len(found):
        with suppress(OSError):
            for task in Path(f"/proc/{found[index]}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        index += 1
    return found


def words_of(pid: int) -> str:
    """The command line of a process; nothing, if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def watched(command: Sequence[str], cwd: Path) -> Peak:
    """Run a command to its end.

    Raises:
        SystemExit: if it does not end well.
    """
    peak, begin = Peak(), time.monotonic()
    with subprocess.Popen(command, cwd=cwd) as process:
        while process.poll() is None:
            sizes = [_memory_mb(pid) for pid in family(process.pid)]
            peak.pss_mb = max(peak.pss_mb, sum(pss for pss, _ in sizes))
            peak.rss_mb = max(peak.rss_mb, sum(rss for _, rss in sizes))
            peak.processes = max(peak.processes, len(sizes))
            time.sleep(_EVERY_S)
    peak.seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"expected {' '.join(command)} to end well; its status is {process.returncode}")
    return peak


def _memory_mb(pid: int) -> tuple[float, float]:
    """Proportional and resident."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return kilobytes["Pss"] * 1024 / 1e6, kilobytes["Rss"] * 1024 / 1e6
    return 0.0, 0.0
