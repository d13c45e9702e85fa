"""What the machine needs at least for a workload: to move the bytes, and to touch a new result for the first time."""

from __future__ import annotations

import math
import statistics
import time
from functools import cache

import torch
from torch import Tensor

from .implementations import BACKWARD, FORWARD
from .results import FloorRow
from .workloads import DTYPES, SAMPLING_RATIOS, Level, Setting, Workload

_COPIED_BYTES = 256 * 2**20
_COPIES = 20
_TOUCHES = 5


def measure(workload: Workload) -> list[FloorRow]:
    """The floors of both passes for all ratios and types, on all threads."""
    print(f"floor of {workload.name}", flush=True)
    return [
        _floor(direction, Setting(workload, sampling_ratio, dtype))
        for dtype in DTYPES
        for sampling_ratio in SAMPLING_RATIOS
        for direction in (FORWARD, BACKWARD)
    ]


def _floor(direction: str, setting: Setting) -> FloorRow:
    levels = setting.levels()
    moved_mb = _moved_bytes(direction, levels, setting) / 1e6
    return FloorRow(
        setting.workload.name,
        direction,
        setting.sampling_ratio,
        setting.dtype,
        moved_mb,
        bandwidth_gb_per_s(),
        moved_mb / bandwidth_gb_per_s(),
        _first_touch_ms(_result_sizes(direction, levels, setting), setting.torch_dtype),
    )


@cache
def bandwidth_gb_per_s() -> float:
    """The bytes read and written by the fastest of some large copies, by their time."""
    source, target = torch.ones(2, _COPIED_BYTES, dtype=torch.uint8)
    seconds = []
    for _ in range(_COPIES):
        begin = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begin)
    return 2 * _COPIED_BYTES / min(seconds) / 1e9


def _first_touch_ms(numbers: tuple[int, ...], dtype: torch.dtype) -> float:
    """The median time to allocate and fill tensors of so many numbers in memory that was not used before."""
    kept: list[Tensor] = []  # what is freed would be given out again
    times_ms = []
    for _ in range(_TOUCHES):
        begin = time.perf_counter()
        kept += [torch.empty(count, dtype=dtype).fill_(0) for count in numbers]
        times_ms.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times_ms)


def _result_sizes(direction: str, levels: list[Level], setting: Setting) -> tuple[int, ...]:
    """How many numbers the output, or the gradient, has on each level."""
    if direction == BACKWARD:
        return tuple(level.features.numel() for level in levels)
    workload = setting.workload
    return tuple(len(level.rois) * workload.channels * workload.output_size**2 for level in levels)


def _moved_bytes(direction: str, levels: list[Level], setting: Setting) -> int:
    """Forward: the cells that are sampled, read once, and the output. Backward: both gradients."""
    item_bytes = setting.torch_dtype.itemsize
    numbers = sum(_result_sizes(FORWARD, levels, setting))
    if direction == BACKWARD:
        numbers += sum(_result_sizes(BACKWARD, levels, setting))
    else:
        numbers += sum(_sampled_cells(level, setting) for level in levels) * setting.workload.channels
    return numbers * item_bytes + sum(level.rois.nbytes for level in levels)


def _sampled_cells(level: Level, setting: Setting) -> int:
    """How many cells of the map any sample of any box reads."""
    height, width = level.features.shape[2:]
    sampled = torch.zeros(height, width, dtype=torch.bool)
    for _, left, top, right, bottom in (level.rois * level.spatial_scale).tolist():
        rows = _sampled_axis(top, bottom, height, setting)
        columns = _sampled_axis(left, right, width, setting)
        sampled[rows[:, None], columns] = True
    return int(sampled.sum())


def _sampled_axis(low: float, high: float, cells: int, setting: Setting) -> Tensor:
    """The rows, or columns, that the samples of a box from `low` to `high` lie between; it lies on the map."""
    bins = setting.workload.output_size
    size = max(high - low, 1.0)
    samples = bins * (setting.sampling_ratio or math.ceil(size / bins))
    first = (low + (torch.arange(samples) + 0.5) * size / samples).floor().long()
    return torch.cat([first, first + 1]).clamp(0, cells - 1).unique()
