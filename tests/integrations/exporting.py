"""Models exported to ONNX by either exporter, and run by onnxruntime."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="ONNX models are written with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
onnxruntime.set_default_logger_severity(3)  # its maximum, it warns, is another one than it will be

needs_onnxscript = pytest.mark.skipif(find_spec("onnxscript") is None, reason="dynamo=True writes with onnxscript")
SLOW = (needs_onnxscript, pytest.mark.rare)
NEWEST = 21  # the newest operator set whose RoiAlign onnxruntime has

Axes = Mapping[str, Mapping[int, str]]


class Exporter(NamedTuple):
    """One of torch's two exporters, and the operator set that it is asked for."""

    dynamo: bool
    opset: int

    def __call__(self, model: nn.Module, inputs: Mapping[str, Any], axes: Axes) -> Any:
        """The model in ONNX; `axes` may have other sizes when it runs."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            model.eval()
            if self.dynamo:
                names = {name for one in axes.values() for name in one.values()}
                dims = {name: torch.export.Dim(name) for name in names}
                shapes = {name: {axis: dims[dim] for axis, dim in axes.get(name, {}).items()} for name in inputs}
                program = torch.onnx.export(
                    model,
                    kwargs=dict(inputs),
                    dynamo=True,
                    opset_version=self.opset,
                    dynamic_shapes=shapes,
                    verbose=False,
                )
                return program.model_proto
            file, names = io.BytesIO(), list(inputs)
            options = {"opset_version": self.opset, "input_names": names, "dynamic_axes": axes}
            torch.onnx.export(model, tuple(inputs.values()), file, dynamo=False, **options)
            return onnx.load_from_string(file.getvalue())


TRACED, PROGRAM = Exporter(False, 20), Exporter(True, NEWEST)
EXPORTERS = [
    pytest.param(Exporter(False, 16), id="traced, opset 16"),
    pytest.param(TRACED, id="traced, opset 20"),
    pytest.param(Exporter(True, 16), id="program, opset 16", marks=SLOW),
    pytest.param(PROGRAM, id=f"program, opset {NEWEST}", marks=needs_onnxscript),
]
BOTH = [pytest.param(TRACED, id="traced"), pytest.param(PROGRAM, id="program", marks=needs_onnxscript)]


class Calls(nn.Module):
    """Several functions of the same tensors, as one model."""

    def __init__(self, calls: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, features: Tensor, rois: Tensor, coarse: Tensor | None = None) -> list[Tensor]:
        given = (features, rois) if coarse is None else (features, rois, coarse)
        return [one for call in self.calls.values() for one in tensors_of(call(*given))]


def tensors_of(result: Any) -> Sequence[Tensor]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def run(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What onnxruntime gives for an exported model, which may have lost inputs that nothing depends on."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {one.name: inputs[one.name].numpy() for one in session.get_inputs()}
    return [torch.from_numpy(one) for one in session.run(None, feed)]
