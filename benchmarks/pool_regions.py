"""pool_regions and MultiScaleRoIAlign on the CPU against torchvision's MultiScaleRoIAlign, on the pyramid of W3.

Run by `make bench`: verified first, then timed. The grids have the offset 0, which is what MultiScaleRoIAlign means, so
all pool the same. What is timed is all that a user calls: the choice of levels and the pooling of all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import torchvision
from tests.ops import tolerances
from torch import Tensor

import roialign
from roialign import FeatureGrid

from .environment import Neighbours, environment
from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION, Call
from .report import provenance, times_table
from .results import TimeRow, as_csv, write_all
from .timing import Budget, time_in_turn
from .workloads import LAYOUTS, SAMPLING_RATIOS, WORKLOADS, Setting

RESULTS = Path(__file__).parent / "results"
BUDGET = Budget(least_repeats=7, seconds=3.0)
MULTI_SCALE = "roialign.MultiScaleRoIAlign"
(W3,) = (workload for workload in WORKLOADS if workload.name == "W3")


def pools(setting: Setting, maps: dict[str, Tensor]) -> dict[str, Call]:
    """Functions that pool all boxes from the levels that their sizes ask for."""
    boxes_xyxy = W3.make_boxes()
    grids = {
        name: FeatureGrid((one.shape[2], one.shape[3]), (float(stride), float(stride)), (0.0, 0.0))
        for stride, (name, one) in zip(W3.strides, maps.items(), strict=True)
    }
    pooler = torchvision.ops.MultiScaleRoIAlign(list(maps), W3.output_size, setting.sampling_ratio)
    drop_in = roialign.MultiScaleRoIAlign(list(maps), W3.output_size, setting.sampling_ratio)
    ratio = setting.sampling_ratio
    return {
        ROIALIGN: lambda: [roialign.pool_regions(maps, [boxes_xyxy], W3.output_size, grids, sampling_ratio=ratio)],
        MULTI_SCALE: lambda: [drop_in(maps, [boxes_xyxy], [W3.image_size_hw])],
        TORCHVISION: lambda: [pooler(OrderedDict(maps), [boxes_xyxy], [W3.image_size_hw])],
    }


def calls(setting: Setting, direction: str) -> dict[str, Call]:
    """What is timed; the gradient is that to all maps."""
    maps = {
        str(index): level.features.requires_grad_(direction == BACKWARD) for index, level in enumerate(setting.levels())
    }
    forward = pools(setting, maps)
    if direction == FORWARD:
        return forward
    outputs = {name: call() for name, call in forward.items()}
    upstream = setting.upstream_like(outputs[ROIALIGN])

    def differentiate(output: list[Tensor]) -> Call:
        return lambda: torch.autograd.grad(output, list(maps.values()), upstream, retain_graph=True)

    return {name: differentiate(output) for name, output in outputs.items()}


def verify(setting: Setting) -> None:
    """End the program unless features and gradients are torchvision's."""
    try:
        for direction in (FORWARD, BACKWARD):
            results = {name: call() for name, call in calls(setting, direction).items()}
            for name in (ROIALIGN, MULTI_SCALE):
                for ours, theirs in zip(results[name], results[TORCHVISION], strict=True):
                    tolerances.assert_close(ours, theirs, theirs)
    except AssertionError as error:
        raise SystemExit(f"the results differ, so nothing is timed. {direction} of {setting}: {error}") from error


def main() -> None:
    rows, where, neighbours = [], environment(), Neighbours()
    for ratio, layout, direction in product(SAMPLING_RATIOS, LAYOUTS, (FORWARD, BACKWARD)):
        setting = Setting(W3, ratio, layout=layout)
        if direction == FORWARD:
            verify(setting)
        times = time_in_turn(calls(setting, direction), BUDGET)
        speedups = [times[TORCHVISION].median_ms / times[name].median_ms for name in (ROIALIGN, MULTI_SCALE)]
        print(f"{direction} of {setting}: {speedups[0]:.1f}x, as MultiScaleRoIAlign {speedups[1]:.1f}x", flush=True)
        options = (ratio, setting.dtype, layout, torch.get_num_threads())
        rows += [TimeRow(W3.name, W3.description, direction, *options, name, own) for name, own in times.items()]
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    drop_in = [replace(row, implementation=ROIALIGN) for row in rows if row.implementation == MULTI_SCALE]
    torchvisions = [row for row in rows if row.implementation == TORCHVISION]
    page = (
        f"# Pyramids on the CPU\n\n{provenance(where)}\n"
        "All levels of a pyramid in one call, the choice of levels included, against torchvision's\n"
        "`MultiScaleRoIAlign`. Milliseconds: median (first to third quartile).\n\n"
        f"- {W3.name}: {W3.description}\n- {torch.get_num_threads()} threads\n\n"
        f"## pool_regions\n\n{times_table(rows)}\n## MultiScaleRoIAlign\n\n{times_table(drop_in + torchvisions)}\n"
    )
    write_all(RESULTS, {"pool_regions.md": page.encode(), "pool_regions.csv": as_csv(rows, where).encode()})


if __name__ == "__main__":
    main()
