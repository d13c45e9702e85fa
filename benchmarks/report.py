"""The readable tables of the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .implementations import ONNXRUNTIME, OPENVINO, ROIALIGN, TORCHVISION
from .results import FloorRow, MemoryRow, TimeRow
from .timing import Times

_PROVENANCE = """\
Made by `{command}`; do not edit it.

- Machine: {cpu} ({cpu_flags}), {machine}; transparent huge pages: {huge_pages}
- Versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}, onnxruntime {onnxruntime}
- Day: {date}; other processes kept {cpus_used_by_others} CPUs busy while it was timed

Absolute times depend on the machine. What to read is the ratio of medians, for all were called in turn in one process,
after their results had been compared. A ratio above 1 says that roialign is faster.
"""
_TIMES = """\
## Times

Milliseconds: median (first to third quartile). `aligned=False`. Backward is the gradient to the features alone.

- torchvision has no bfloat16 kernel on the CPU. Its bfloat16 rows are what a user would write in its place,
  `roi_align(features.float(), ...).to(torch.bfloat16)`, and the gradient of that.
- onnxruntime and OpenVINO ({openvino}) have a forward for float32 in NCHW only. They keep the memory of their outputs
  from call to call, where torch takes large outputs from the system anew each time.
- W3 is a pyramid: one call for each of its four levels, timed together; for those two, one model with four nodes.
"""
_MEMORY = """\
## Peak memory

What one call takes, at its peak and above what was resident before, its result included; each in a process of its own
with `sampling_ratio=2` and NCHW. In brackets: as a multiple of the result, that is, the output or the gradient. Linux
counts to some hundred kilobytes only, so there is no multiple for smaller results.
"""
_FLOOR = """\
## Distance to the floor

Two measures of what the machine needs at least, on all threads, in NCHW. *Move*: the bytes that have to move (forward:
the cells of the map that any sample reads, once, the boxes and the output; backward: the output's gradient, the boxes
and the features' gradient) at {bandwidth:.1f} GB/s, read and written, the fastest copy of 256 MiB on this machine.
*First touch*: `torch.empty(...).fill_(0)` of a result of that size in memory that is new to the process; who asks the
system for larger pages, or is given memory that was used before, can be quicker. The distance is roialign's median time
divided by either. W4 fits in the caches, which are faster than that copy.
"""
_GROWTH = """\
## Growth

![Time of roi_align against the number of boxes and against the size of the output](roi_align_growth.svg)

The numbers are in [roi_align_growth.csv](roi_align_growth.csv).
"""


def page(
    times: Sequence[TimeRow],
    memory: Sequence[MemoryRow],
    floors: Sequence[FloorRow],
    environment: Mapping[str, str],
    *,
    with_growth: bool,
) -> str:
    """All of the results as Markdown."""
    parts = ["# roi_align on the CPU\n", provenance(environment)]
    if times:
        descriptions = {row.workload: row.description for row in times}
        parts += [_TIMES.format(**environment) + "".join(f"- {name}: {text}\n" for name, text in descriptions.items())]
        for threads in sorted({row.threads for row in times}, reverse=True):
            parts += [f"### {_threads(threads)}\n", times_table([row for row in times if row.threads == threads])]
        parts += [_MEMORY, _memory_table(memory)]
        parts += [_FLOOR.format(bandwidth=floors[0].bandwidth_gb_per_s), _floor_table(floors, times)]
    if with_growth:
        parts.append(_GROWTH)
    return "\n".join(parts)


def provenance(environment: Mapping[str, str], command: str = "make bench") -> str:
    """Where the numbers come from, and how to read them."""
    return _PROVENANCE.format(command=command, **environment)


def _threads(count: int) -> str:
    return "One thread" if count == 1 else f"All {count} threads"


def times_table(rows: Sequence[TimeRow]) -> str:
    """Times of all implementations, and how many times as fast as the others roialign is."""
    groups: dict[tuple[str, str, str, str, str], dict[str, Times]] = {}
    for row in rows:
        key = (row.workload, row.pass_, _ratio_name(row.sampling_ratio), row.dtype, row.layout)
        groups.setdefault(key, {})[row.implementation] = row.times
    measured = {row.implementation for row in rows}
    others = [name for name in (TORCHVISION, ONNXRUNTIME, OPENVINO) if name in measured]
    lines = []
    for key, by_name in groups.items():
        cells = [spread(by_name.get(name)) for name in (ROIALIGN, *others)]
        lines.append([*key, *cells, *(_speedup(by_name[ROIALIGN], by_name.get(name)) for name in others)])
    head = ["workload", "pass", "sampling_ratio", "type", "layout", ROIALIGN, *others]
    return table([*head, *(f"to {name}" for name in others)], lines)


def _memory_table(rows: Sequence[MemoryRow]) -> str:
    groups: dict[tuple[str, str, str], dict[str, MemoryRow]] = {}
    for row in rows:
        groups.setdefault((row.workload, row.pass_, row.dtype), {})[row.implementation] = row
    lines = [
        [*key, f"{by_name[ROIALIGN].result_mb:.1f}", *(_memory(by_name[name]) for name in (ROIALIGN, TORCHVISION))]
        for key, by_name in groups.items()
    ]
    return table(["workload", "pass", "type", "result, MB", "roialign, MB", "torchvision, MB"], lines)


def _memory(row: MemoryRow) -> str:
    multiple = f" ({row.extra_mb / row.result_mb:.2f}x)" if row.result_mb >= 1 else ""
    return f"{row.extra_mb:.1f}{multiple}"


def _floor_table(floors: Sequence[FloorRow], times: Sequence[TimeRow]) -> str:
    threads = max(row.threads for row in times)
    ours_ms = {
        (row.workload, row.pass_, row.sampling_ratio, row.dtype): row.times.median_ms
        for row in times
        if (row.implementation, row.layout, row.threads) == (ROIALIGN, "NCHW", threads)
    }
    lines = []
    for row in floors:
        own_ms = ours_ms[row.workload, row.pass_, row.sampling_ratio, row.dtype]
        names = [row.workload, row.pass_, _ratio_name(row.sampling_ratio), row.dtype]
        numbers = [f"{row.moved_mb:.1f}", *map(_ms, (row.move_ms, row.first_touch_ms, own_ms))]
        lines.append([*names, *numbers, f"{own_ms / row.move_ms:.1f}x", f"{own_ms / row.first_touch_ms:.1f}x"])
    head = ["workload", "pass", "sampling_ratio", "type", "moved, MB", "move, ms", "first touch, ms", "roialign, ms"]
    return table([*head, "distance to move", "to first touch"], lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _ratio_name(sampling_ratio: int) -> str:
    return str(sampling_ratio) if sampling_ratio else "adaptive"


def spread(times: Times | None) -> str:
    """Milliseconds: the median and the quartiles."""
    if times is None:
        return ""
    return f"{_ms(times.median_ms)} ({_ms(times.q1_ms)} to {_ms(times.q3_ms)})"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _speedup(ours: Times, theirs: Times | None) -> str:
    return "" if theirs is None else f"{theirs.median_ms / ours.median_ms:.1f}x"
