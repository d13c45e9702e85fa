"""Questions about tracers, compilers and exporters."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from tests.abilities import subjects
from tests.abilities.outcomes import NotApplicableError, WrongError, agree
from tests.abilities.subjects import OfImages, Subject

_COUNTS, _SIZES = (3, 5, 8), (8, 10, 12)


def compiled(subject: Subject) -> None:
    """One graph, at most compiled twice, for any number of boxes and sizes of maps."""
    torch._dynamo.reset()
    module, counter = subject.module(), CompileCounterWithBackend("aot_eager")
    run = torch.compile(module, backend=counter, fullgraph=True)
    for count, size in zip(_COUNTS, _SIZES, strict=True):
        arguments = subject.arguments(count, size)
        expected = module(*arguments)  # first, for an extractor traces its backbone outside of graphs
        agree(run(*arguments), expected)
    if counter.frame_count > 2:
        raise WrongError(f"{counter.frame_count} graphs")


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
    if _is_function(module):
        raise NotApplicableError
    run = torch.jit.script(module)
    for count in _COUNTS:
        arguments = subject.arguments(count, 10)
        agree(run(*arguments), module(*arguments))


def traced(subject: Subject) -> None:
    module, example, kept = subject.module().eval(), subject.arguments(), 2 if subject.is_pyramid else None
    if subject.is_pyramid:
        module = OfImages(module, example[2])
    run = torch.jit.trace(module, example[:kept], check_trace=False, strict=False)
    for count in _COUNTS:
        arguments = subject.arguments(count, 8 if subject.is_pyramid else 10)[:kept]
        agree(run(*arguments), module(*arguments))


def symbolic(subject: Subject) -> None:
    """A leaf for torch.fx, which feature extraction is made of."""
    module = subject.module()
    if _is_function(module):
        raise NotApplicableError

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = module

        def forward(self, features: Any, boxes: Any) -> Tensor:
            return self.pool(features, boxes, *more) * 2

    features, boxes, *more = subject.arguments()
    head = Head()
    agree(torch.fx.symbolic_trace(head)(features, boxes), head(features, boxes))


def fake(subject: Subject) -> None:
    """Shapes without values: fake tensors, and the meta device."""
    module = subject.module()
    arguments = subject.arguments()
    expected = module(*arguments).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = module(*tree_map(lambda one: mode.from_tensor(one) if isinstance(one, Tensor) else one, arguments))
    on_meta = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, arguments)
    if found.shape != expected or module.to("meta")(*on_meta).shape != expected:
        raise WrongError(f"{found.shape}")


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


def _is_function(module: nn.Module) -> bool:
    """Whether it is a function, or a whole network, that the table wraps."""
    return type(module).__module__ == subjects.__name__


def _dynamic(tensor: Tensor) -> dict[int, Any]:
    """All dimensions but the channels of maps, and the columns of boxes."""
    fixed = () if tensor.dtype == torch.bool else (1,)
    return {at: torch.export.Dim.AUTO for at in range(tensor.dim()) if at not in fixed}


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
