"""roi_align(mode="max") on the CPU: verified against the reference, then timed. `python -m benchmarks.roi_align_max`.

No peer that is installed has it; onnxruntime has ONNX's maximum of single corners, forward, and torchvision the mean.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torchvision
from tests.ops import tolerances
from tests.ops.cases import Case
from tests.ops.peers import onnxruntime_roi_align
from torch import Tensor

import roialign
from roialign.ops import reference

from .implementations import Call
from .in_turn import gradient, report
from .workloads import WORKLOADS, Level, Setting

RATIO = 2


def ways(features: Tensor, level: Level, size: int) -> dict[str, Call]:
    options = (size, level.spatial_scale, RATIO)
    return {
        'roi_align(mode="max")': lambda: [roialign.roi_align(features, level.rois, *options, mode="max")],
        "roialign.roi_align, the mean": lambda: [roialign.roi_align(features, level.rois, *options)],
        "torchvision.ops.roi_align, the mean": lambda: [torchvision.ops.roi_align(features, level.rois, *options)],
    }


def main() -> None:
    roialign.set_policy("ignore")
    (level,) = Setting(WORKLOADS[0], RATIO).levels()
    size = WORKLOADS[0].output_size
    few = replace(level, features=level.features[:, :4], rois=level.rois[:40])
    expected, _ = reference.roi_align_max(few.features, few.rois, size, size, few.spatial_scale, RATIO, False, False)
    output = roialign.roi_align(few.features, few.rois, size, few.spatial_scale, RATIO, mode="max")
    tolerances.assert_close(output, expected, few.features)
    report("forward of W1", ways(level.features, level, size))
    case = Case(0, tuple(level.features.shape), (), (size, size), level.spatial_scale, RATIO, True)
    options = (size, level.spatial_scale, RATIO)
    onnx = {
        'roi_align(mode="max", compat="onnx")': lambda: [
            roialign.roi_align(level.features, level.rois, *options, mode="max", compat="onnx")
        ],
        "onnxruntime": lambda: [onnxruntime_roi_align(level.features, level.rois, case, "max")],
    }
    report("forward of W1, ONNX's maximum", onnx)
    leaf = level.features.requires_grad_()
    outputs = {name: call()[0] for name, call in ways(leaf, level, size).items()}
    report("backward of W1", {name: gradient(output, [leaf]) for name, output in outputs.items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
