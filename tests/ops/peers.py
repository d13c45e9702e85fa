"""RoIAlign as others compute it: torchvision, and onnxruntime, which shares no code with torch."""

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from onnx import TensorProto, helper
from torch import Tensor

from .cases import Case

OPSET = 16  # the newest for which onnxruntime has a CPU kernel


def torchvision_roi_align(features: Tensor, rois: Tensor, case: Case) -> Tensor:
    return torchvision.ops.roi_align(features, rois, case.output_size_hw, *case.sampling)


def onnxruntime_roi_align(features: Tensor, rois: Tensor, case: Case, mode: str = "avg") -> Tensor:
    session = onnxruntime.InferenceSession(_model(case, mode).SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {
        "input": features.numpy(),
        "boxes": rois[:, 1:].contiguous().numpy(),
        "images": rois[:, 0].numpy().astype(np.int64),
    }
    return torch.from_numpy(session.run(None, feed)[0])


def _model(case: Case, mode: str) -> onnx.ModelProto:
    node = helper.make_node(
        "RoiAlign",
        ["input", "boxes", "images"],
        ["output"],
        mode=mode,
        output_height=case.output_size_hw[0],
        output_width=case.output_size_hw[1],
        sampling_ratio=case.sampling_ratio,
        spatial_scale=case.spatial_scale,
        coordinate_transformation_mode="half_pixel" if case.aligned else "output_half_pixel",
    )
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [None] * 4),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("images", TensorProto.INT64, [None]),
    ]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([node], "roi_align", inputs, outputs)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", OPSET)])
