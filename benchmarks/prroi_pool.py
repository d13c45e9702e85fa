"""prroi_pool on the CPU: verified against the closed form, then timed. `python -m benchmarks.prroi_pool`.

No peer that is installed has it on the CPU, so it is held against roi_align with adaptive sampling, roialign's and
torchvision's, which read about the same cells.
"""

from __future__ import annotations

import torch
import torchvision
from tests.ops import tolerances
from tests.ops.test_prroi_pool import brute_force
from torch import Tensor

import roialign

from .implementations import Call
from .in_turn import gradient, report
from .workloads import WORKLOADS, Level, Setting


def verify(level: Level, size: int) -> None:
    """End the program unless the features of some boxes are those of the closed form."""
    few = level.features[:, :4], level.rois[:40]
    output = roialign.prroi_pool(*few, size, level.spatial_scale)
    try:
        tolerances.assert_close(output, brute_force(*few, size, size, level.spatial_scale), few[0])
    except AssertionError as error:
        raise SystemExit(f"the results are wrong, so nothing is timed: {error}") from error


def ways(features: Tensor, level: Level, size: int) -> dict[str, Call]:
    """prroi_pool, and what it is held against."""
    rois, scale = level.rois, level.spatial_scale
    return {
        "prroi_pool": lambda: [roialign.prroi_pool(features, rois, size, scale)],
        "roialign.roi_align, adaptive": lambda: [roialign.roi_align(features, rois, size, scale, -1)],
        "torchvision.ops.roi_align, adaptive": lambda: [torchvision.ops.roi_align(features, rois, size, scale, -1)],
    }


def main() -> None:
    roialign.set_policy("ignore")
    for workload in WORKLOADS[:2]:
        for layout in ("NCHW", "channels_last"):
            setting = Setting(workload, -1, layout=layout)
            (level,) = setting.levels()
            verify(level, workload.output_size)
            title = f"{workload.name}, {layout}"
            report(f"forward of {title}", ways(level.features, level, workload.output_size))
            leaf = level.features.requires_grad_()
            outputs = {name: call()[0] for name, call in ways(leaf, level, workload.output_size).items()}
            report(f"backward of {title}", {name: gradient(output, [leaf]) for name, output in outputs.items()})
            rois = level.rois.requires_grad_()
            fixed = Level(level.features.detach(), rois, level.spatial_scale)
            calls = ways(fixed.features, fixed, workload.output_size)
            ours = {name: gradient(call()[0], [rois]) for name, call in calls.items() if "torchvision" not in name}
            report(f"gradient to the boxes of {title}", ours)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
