"""RoIAlign by roialign, torchvision, onnxruntime and OpenVINO, as functions that can be called again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx.parser
import onnxruntime
import torch
import torchvision
from torch import Tensor

import roialign

from .workloads import Level, Setting

ROIALIGN, TORCHVISION, ONNXRUNTIME, OPENVINO = "roialign", "torchvision", "onnxruntime", "OpenVINO"
FORWARD, BACKWARD = "forward", "backward"
Call = Callable[[], Sequence[Tensor]]

onnxruntime.set_default_logger_severity(3)  # errors only: it warns that its maximum is another one than it will be

# Opset 16 is the newest for which onnxruntime has a CPU kernel.
_ONNX_GRAPH = '<ir_version: 8, opset_import: ["": 16]> pool ({inputs}) => ({outputs}) {{ {nodes} }}'
_ONNX_INPUTS = "float[n{i}, c, h{i}, w{i}] features{i}, float[k{i}, 4] boxes{i}, int64[k{i}] images{i}"
_ONNX_OUTPUT = "float[k{i}, c, {size}, {size}] output{i}"
_ONNX_NODE = """
output{i} = RoiAlign <mode = "{mode}", output_height = {size}, output_width = {size}, sampling_ratio = {ratio},
    spatial_scale = {scale}, coordinate_transformation_mode = "output_half_pixel"> (features{i}, boxes{i}, images{i})
"""


def pool(implementation: str, level: Level, setting: Setting) -> Tensor:
    """The features of the boxes of one level, by roialign or torchvision."""
    options = (setting.workload.output_size, level.spatial_scale, setting.sampling_ratio)
    if implementation == ROIALIGN:
        return roialign.roi_align(level.features, level.rois, *options)
    if level.features.dtype == torch.bfloat16:  # torchvision has no kernel for it on the CPU
        return torchvision.ops.roi_align(level.features.float(), level.rois, *options).to(torch.bfloat16)
    return torchvision.ops.roi_align(level.features, level.rois, *options)


def forward(implementation: str, levels: list[Level], setting: Setting) -> Call:
    """A function that pools all levels."""
    return lambda: [pool(implementation, level, setting) for level in levels]


def backward(implementation: str, levels: list[Level], setting: Setting) -> Call:
    """A function that computes the gradients to the features of all levels; the forward is done here, once."""
    leaves = [level.features.detach().requires_grad_() for level in levels]
    outputs = [
        pool(implementation, Level(leaf, level.rois, level.spatial_scale), setting)
        for leaf, level in zip(leaves, levels, strict=True)
    ]
    upstream = setting.upstream_like(outputs)
    return lambda: torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)


def onnx_forwards(levels: list[Level], setting: Setting, threads: int) -> dict[str, Call]:
    """By runtime of ONNX models, a function that pools all levels: of those that are installed and can do this."""
    if setting.dtype != "float32" or setting.layout != "NCHW":
        return {}
    found = {ONNXRUNTIME: onnxruntime_forward(levels, setting, threads)}
    if openvino_version() is not None:
        found[OPENVINO] = _openvino_forward(levels, setting, threads)
    return found


def openvino_version() -> str | None:
    """None where OpenVINO is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def onnxruntime_forward(levels: list[Level], setting: Setting, threads: int, mode: str = "avg") -> Call:
    """A function that pools all levels in one session of so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = _onnx_model(levels, setting, mode)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = _feed(levels)
    return lambda: [torch.from_numpy(output) for output in session.run(None, feed)]


def _openvino_forward(levels: list[Level], setting: Setting, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}  # it would take bfloat16 with AMX
    compiled = core.compile_model(core.read_model(_onnx_model(levels, setting, "avg")), "CPU", options)
    request, feed = compiled.create_infer_request(), _feed(levels)

    def infer() -> list[Tensor]:
        found = request.infer(feed, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(found[output]) for output in compiled.outputs]

    return infer


def _feed(levels: list[Level]) -> dict[str, np.ndarray]:
    feed = {}
    for i, level in enumerate(levels):
        feed[f"features{i}"] = level.features.numpy()
        feed[f"boxes{i}"] = level.rois[:, 1:].contiguous().numpy()
        feed[f"images{i}"] = level.rois[:, 0].numpy().astype(np.int64)
    return feed


def _onnx_model(levels: list[Level], setting: Setting, mode: str) -> bytes:
    """A model that pools all levels."""
    size, ratio = setting.workload.output_size, setting.sampling_ratio
    text = _ONNX_GRAPH.format(
        inputs=", ".join(_ONNX_INPUTS.format(i=i) for i in range(len(levels))),
        outputs=", ".join(_ONNX_OUTPUT.format(i=i, size=size) for i in range(len(levels))),
        nodes="".join(
            _ONNX_NODE.format(i=i, mode=mode, size=size, ratio=ratio, scale=level.spatial_scale)
            for i, level in enumerate(levels)
        ),
    )
    model: bytes = onnx.parser.parse_model(text).SerializeToString()
    return model


def calls(direction: str, levels: list[Level], setting: Setting, threads: int) -> dict[str, Call]:
    """The functions of all implementations that can compute this setting in this direction."""
    make = forward if direction == FORWARD else backward
    found = {name: make(name, levels, setting) for name in (ROIALIGN, TORCHVISION)}
    if direction == FORWARD:
        found |= onnx_forwards(levels, setting, threads)
    return found
