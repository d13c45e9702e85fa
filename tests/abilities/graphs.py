"""Questions about tracers, compilers and exporters."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from tests.abilities.outcomes import NotApplicable, Wrong, agree
from tests.abilities.subjects import Subject

_COUNTS, _SIZES = (3, 5, 8), (8, 10, 12)


def compiled(subject: Subject) -> None:
    """One graph, at most compiled twice, for any number of boxes and sizes of maps."""
    torch._dynamo.reset()
    module, counter = subject.module(), CompileCounterWithBackend("aot_eager")
    run = torch.compile(module, backend=counter, fullgraph=True)
    for count, size in zip(_COUNTS, _SIZES, strict=True):
        arguments = subject.arguments(count, size)
        agree(run(*arguments), module(*arguments))
    if counter.frame_count > 2:
        raise Wrong(f"{counter.frame_count} graphs")


def exported(subject: Subject) -> None:
    """torch.export with a dynamic number of boxes and dynamic sizes, saved and loaded."""
    module = subject.module().eval()
    arguments = subject.arguments()
    dynamic = tree_map(lambda one: _dynamic(one) if isinstance(one, Tensor) else None, arguments)
    program = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count, size in zip(_COUNTS, (8, 8, 8) if subject.is_pyramid else _SIZES, strict=True):
        other = subject.arguments(count, size)
        agree(loaded(*other), module(*other))


def scripted(subject: Subject) -> None:
    module = subject.module()
    if type(module).__module__.startswith("tests"):
        raise NotApplicable  # a function, and no module to be scripted
    _agree(torch.jit.script(module), module, subject)


def traced(subject: Subject) -> None:
    module, example = subject.module().eval(), subject.arguments()
    run = torch.jit.trace(module, example, check_trace=False, strict=False)
    _agree(run, module, subject, size=8 if subject.is_pyramid else 10)


def symbolic(subject: Subject) -> None:
    """A leaf for torch.fx, which feature extraction is made of."""
    module = subject.module()

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = module

        def forward(self, *arguments: Any) -> Tensor:
            return self.pool(*arguments) * 2

    class Head2(Head):
        def forward(self, features: Any, boxes: Any) -> Tensor:
            return self.pool(features, boxes) * 2

    class Head3(Head):
        def forward(self, features: Any, boxes: Any, more: Any) -> Tensor:
            return self.pool(features, boxes, more) * 2

    arguments = subject.arguments()
    head = (Head2 if len(arguments) == 2 else Head3)()
    agree(torch.fx.symbolic_trace(head)(*arguments), head(*arguments))


def fake(subject: Subject) -> None:
    """Shapes without values: fake tensors, and the meta device."""
    module = subject.module()
    arguments = subject.arguments()
    expected = module(*arguments).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = module(*tree_map(lambda one: mode.from_tensor(one) if isinstance(one, Tensor) else one, arguments))
    on_meta = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, arguments)
    if found.shape != expected or module.to("meta")(*on_meta).shape != expected:
        raise Wrong(f"{found.shape}")


def onnx(subject: Subject) -> None:
    _export_onnx(subject, dynamo=True)


def onnx_of_script(subject: Subject) -> None:
    _export_onnx(subject, dynamo=False)


def _export_onnx(subject: Subject, dynamo: bool) -> None:
    """Equal in onnxruntime, to 1e-5."""
    import onnxruntime

    module, arguments, file = subject.module().eval(), subject.arguments(), io.BytesIO()
    torch.onnx.export(module, arguments, file, dynamo=dynamo, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    given = [one for one in torch.utils._pytree.tree_leaves(arguments) if isinstance(one, Tensor)]
    names = [one.name for one in session.get_inputs()]
    (found,) = session.run(None, {name: one.numpy() for name, one in zip(names, given, strict=True)})
    agree(torch.from_numpy(found), module(*arguments).detach(), 1e-5)


def _dynamic(tensor: Tensor) -> dict[int, Any]:
    """All dimensions but the channels of maps, and the columns of boxes."""
    auto = torch.export.Dim.AUTO
    return {0: auto} if tensor.dim() == 2 else {0: auto} | dict.fromkeys(range(2, tensor.dim()), auto)


def _agree(run: Any, module: nn.Module, subject: Subject, size: int = 10) -> None:
    for count in _COUNTS:
        arguments = subject.arguments(count, size)
        agree(run(*arguments), module(*arguments))


QUESTIONS = {
    "torch.compile": compiled,
    "torch.export": exported,
    "jit.script": scripted,
    "jit.trace": traced,
    "torch.fx": symbolic,
    "fake and meta": fake,
    "ONNX": onnx,
    "ONNX, dynamo=False": onnx_of_script,
}
