"""What is timed on a GPU, and how: by events with the host far ahead, and by the wall clock."""

from __future__ import annotations

import gc
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from torch import Tensor

import roialign
from benchmarks.workloads import DTYPES, LAYOUTS, WORKLOADS, Workload

_op: Any = torch.ops.roialign
Call = Callable[[], Any]
ROIALIGN, ATOMIC, DETERMINISTIC = "roialign", "torchvision", "torchvision, deterministic"
ROTATED_BYTES = 200e6  # several times a GPU's cache
AHEAD_CYCLES = 2_000_000  # for which the GPU is kept waiting before each repeat: 1 ms, so that no launch is waited for
_TRAINING = replace(next(one for one in WORKLOADS if one.name == "W3"), name="training", boxes=512)
_W1, _W2, _W3, _W4 = WORKLOADS
CASES = ((_W1, 1), (_W3, 1), (_TRAINING, 16), (_W4, 1), (_W2, 1))


@dataclass(frozen=True)
class Times:
    median_ms: float
    q1_ms: float
    q3_ms: float
    repeats: int


@dataclass
class Inputs:
    """A batch of images with their boxes, on the GPU; `maps` has the levels."""

    workload: Workload
    maps: list[Tensor]
    rois: Tensor
    levels: Tensor
    grad: Tensor

    @property
    def scales(self) -> list[float]:
        return [1 / stride for stride in self.workload.strides]

    @property
    def cells(self) -> list[float]:
        return [number for scale in self.scales for number in (scale, 0.0) * 2]

    def of_levels(self) -> list[tuple[Tensor, Tensor, float, Tensor]]:
        """Map, boxes, scale and gradient of each level, chosen ahead, for an operator that knows one map only."""
        members = [(self.levels == one).nonzero().flatten() for one in range(len(self.maps))]
        return [
            (one, self.rois[rows], scale, self.grad[rows])
            for one, rows, scale in zip(self.maps, members, self.scales, strict=True)
        ]


def make_inputs(workload: Workload, images: int, dtype: torch.dtype, layout: torch.memory_format, seed: int) -> Inputs:
    generator = torch.Generator("cuda").manual_seed(seed)
    height, width = workload.image_size_hw
    maps = [
        torch.randn(images, workload.channels, height // s, width // s, device="cuda", generator=generator)
        .to(dtype)
        .contiguous(memory_format=layout)
        for s in workload.strides
    ]
    boxes_xyxy = workload.make_boxes()
    rois = torch.cat(
        [torch.cat([torch.full((len(boxes_xyxy), 1), float(one)), boxes_xyxy], 1) for one in range(images)]
    )
    levels = workload.level_of_each(rois[:, 1:])
    size = workload.output_size
    grad = torch.randn(len(rois), workload.channels, size, size, device="cuda", generator=generator).to(dtype)
    return Inputs(workload, maps, rois.cuda(), levels.cuda(), grad)


def roialign_calls(inputs: Inputs, ratio: int) -> dict[str, Call]:
    maps, rois, levels, grad, size = inputs.maps, inputs.rois, inputs.levels, inputs.grad, inputs.workload.output_size
    images = maps[0].shape[0]
    if len(maps) == 1:
        options = (inputs.scales[0], ratio, False)
        height, width = maps[0].shape[2:]
        calls = {
            "forward": lambda: _op.roi_align(maps[0], rois, size, size, *options),
            "backward": lambda: _op.roi_align_backward(grad, rois, images, height, width, *options),
            "backward to boxes": lambda: _op.roi_align_backward_boxes(grad, maps[0], rois, *options),
        }
    else:
        heights, widths, options = [one.shape[2] for one in maps], [one.shape[3] for one in maps], (ratio, True)
        cells = inputs.cells
        calls = {
            "forward": lambda: _op.multi_scale_roi_align(maps, rois, levels, cells, size, size, *options),
            "backward": lambda: _op.multi_scale_roi_align_backward(
                grad, rois, levels, images, heights, widths, cells, *options
            ),
            "backward to boxes": lambda: _op.multi_scale_roi_align_backward_boxes(
                grad, maps, rois, levels, cells, *options
            ),
        }
    calls["both"] = lambda: (calls["forward"](), calls["backward"]())
    return calls


def torchvision_calls(inputs: Inputs, ratio: int) -> dict[str, Call]:
    """torchvision's operator for each level; bfloat16, of which it has none, through float32."""
    op, op_backward = torch.ops.torchvision.roi_align, torch.ops.torchvision._roi_align_backward
    size, of_levels = inputs.workload.output_size, inputs.of_levels()
    images, channels = inputs.maps[0].shape[:2]
    dtype = inputs.grad.dtype

    def forward() -> list[Tensor]:
        return [op(one.float(), rois, scale, size, size, ratio, False).to(dtype) for one, rois, scale, _ in of_levels]

    def backward() -> list[Tensor]:
        return [
            op_backward(grad.float(), rois, scale, size, size, images, channels, *one.shape[2:], ratio, False).to(dtype)
            for one, rois, scale, grad in of_levels
        ]

    return {"forward": forward, "backward": backward, "both": lambda: (forward(), backward())}


def deterministic_calls(inputs: Inputs, ratio: int) -> dict[str, Call]:
    """torchvision under torch.use_deterministic_algorithms, which takes its version in Python."""
    one, rois, scale, grad = inputs.of_levels()[0]
    leaf = one.detach().requires_grad_()

    def both() -> Any:
        torch.use_deterministic_algorithms(True)
        try:
            output = torchvision.ops.roi_align(leaf, rois, inputs.workload.output_size, scale, ratio)
            return torch.autograd.grad(output, leaf, grad)
        finally:
            torch.use_deterministic_algorithms(False)

    return {"both": both}


def wall_calls(inputs: Inputs, ratio: int) -> dict[str, Call]:
    """What users call, forward, with all that the host does for it."""
    size, names = inputs.workload.output_size, [str(one) for one in range(len(inputs.maps))]
    if len(inputs.maps) == 1:
        arguments = (inputs.maps[0], inputs.rois, size, inputs.scales[0], ratio)
        calls = {ROIALIGN: lambda: roialign.roi_align(*arguments)}
        if inputs.grad.dtype != torch.bfloat16:
            calls[ATOMIC] = lambda: torchvision.ops.roi_align(*arguments)
        return calls
    named = OrderedDict(zip(names, inputs.maps, strict=True))
    per_image = [inputs.rois[inputs.rois[:, 0] == one, 1:] for one in range(inputs.maps[0].shape[0])]
    sizes_hw = [inputs.workload.image_size_hw] * len(per_image)
    ours = roialign.MultiScaleRoIAlign(names, size, ratio)
    theirs = torchvision.ops.MultiScaleRoIAlign(names, size, ratio)
    calls = {ROIALIGN: lambda: ours(named, per_image, sizes_hw)}
    if inputs.grad.dtype != torch.bfloat16:
        calls[ATOMIC] = lambda: theirs(named, per_image, sizes_hw)
    return calls


def time_by_events(calls: list[Call], repeats: int) -> Times:
    """Times of the GPU; `calls` do the same on other buffers and are called in turn."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    pairs = []
    for repeat in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(AHEAD_CYCLES)
        begin.record()
        calls[repeat % len(calls)]()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return _summary([begin.elapsed_time(end) for begin, end in pairs])


def time_by_wall(call: Call, repeats: int, calls_each: int = 20) -> Times:
    """Times of the host and the GPU together, of calls one after another."""
    times_ms = []
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            begin = time.perf_counter()
            for _ in range(calls_each):
                call()
            torch.cuda.synchronize()
            times_ms.append((time.perf_counter() - begin) / calls_each * 1e3)
    finally:
        gc.enable()
    return _summary(times_ms)


def _summary(times_ms: list[float]) -> Times:
    q1, median, q3 = statistics.quantiles(times_ms, n=4, method="inclusive")
    return Times(median, q1, q3, len(times_ms))


def copy_bandwidth_gb_s() -> float:
    """Bytes read and written by a large copy on the GPU, in a second."""
    one = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    return 2 * one.numel() / time_by_events([lambda: other.copy_(one)], 10).median_ms / 1e6


def least_bytes(inputs: Inputs, ratio: int) -> dict[str, float]:
    """What has to be moved at least: cells that are read, once, and results; gradients read and maps written."""
    ones = torch.ones_like(inputs.grad[:, :1], dtype=torch.float32)
    images, cells = inputs.maps[0].shape[0], inputs.cells
    heights, widths = [one.shape[2] for one in inputs.maps], [one.shape[3] for one in inputs.maps]
    read = _op.multi_scale_roi_align_backward(
        ones, inputs.rois, inputs.levels, images, heights, widths, cells, ratio, True
    )
    size, channels = inputs.grad.element_size(), inputs.grad.shape[1]
    forward = sum(int((one > 0).sum()) for one in read) * channels + inputs.grad.numel()
    backward = inputs.grad.numel() + sum(one.numel() for one in inputs.maps)
    return {"forward": forward * size, "backward": backward * size, "both": (forward + backward) * size}


def settings() -> Iterator[tuple[Workload, int, str, str, int]]:
    """Workload, images, type, layout and sampling ratio of all that is timed."""
    for workload, images in CASES:
        for dtype in DTYPES:
            for layout in LAYOUTS:
                if dtype == "float32" or workload.name in ("W1", "training"):
                    yield workload, images, dtype, layout, 2
    yield CASES[0][0], 1, "float32", "channels_last", 0
