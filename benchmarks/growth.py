"""How the time grows with the number of boxes and with the size of the output."""

from __future__ import annotations

from dataclasses import replace

import torch

from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION, calls
from .results import GrowthRow
from .timing import Budget, Times, time_in_turn
from .verify import verify
from .workloads import Setting, Workload

WORKLOAD = Workload("growth", 64, (800, 1344), (8,), 100, (16, 224), 7)
BOXES = (10, 100, 1_000, 10_000, 100_000)
OUTPUT_SIZES = (1, 2, 4, 7, 14, 28, 56)
BY_BOXES, BY_OUTPUT_SIZE = "boxes", "output size"


def measure(budget: Budget, points: int | None = None) -> list[GrowthRow]:
    """Verify and time each point of both series, or the first ones, in float32 on all threads."""
    series_points = [(BY_BOXES, replace(WORKLOAD, boxes=count)) for count in BOXES[:points]]
    series_points += [(BY_OUTPUT_SIZE, replace(WORKLOAD, output_size=size)) for size in OUTPUT_SIZES[:points]]
    rows = []
    for series, workload in series_points:
        setting = Setting(workload, sampling_ratio=2)
        print(f"growth: verifying {workload.description}", flush=True)
        verify(setting)
        for direction in (FORWARD, BACKWARD):
            for implementation, times in _times(direction, setting, budget).items():
                print(f"growth: {direction}, {implementation} {times.median_ms:.3g} ms", flush=True)
                rows.append(GrowthRow(series, workload.boxes, workload.output_size, direction, implementation, times))
    return rows


def _times(direction: str, setting: Setting, budget: Budget) -> dict[str, Times]:
    found = calls(direction, setting.levels(), setting, torch.get_num_threads())
    return time_in_turn({name: found[name] for name in (ROIALIGN, TORCHVISION)}, budget)
