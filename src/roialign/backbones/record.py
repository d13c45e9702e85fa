"""A run of a backbone with every ATen operator written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from roialign.backbones.sandbox import Sandbox


@dataclass(frozen=True)
class Ref:
    """A tensor of the run, and its shape at that time."""

    key: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One operator of the run, called in the module `path`; tensors are Refs."""

    function: torch._ops.OpOverload
    arguments: dict[str, Any]
    results: tuple[Ref, ...]
    path: str


@dataclass
class Tape:
    """A run: the image, its operators in order, the outputs, and the tensors that have values."""

    image: Ref
    entries: list[Entry]
    outputs: Any
    values: dict[int, Tensor]
    alive: list[Tensor] = field(default_factory=list)  # a key is an id, so nothing may be freed


class _Recorder(TorchDispatchMode):
    """Writes down each operator that gets here, below autograd and composite operators."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.sandbox = sandbox
        self.entries: list[Entry] = []
        self.alive: list[Tensor] = []
        self.values = dict(sandbox.values)
        self.schemas: dict[Any, tuple[list[str], dict[str, Any]]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = self.arguments(function, args, kwargs or {})
        out = function(*args, **(kwargs or {}))
        self.write(function, arguments, out)
        return out

    def arguments(self, function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """Those of a call under the names of its schema, with the defaults of the others."""
        names, defaults = self.schemas.get(function) or self._schema(function)
        given = dict(zip(names, args, strict=False)) | kwargs
        return defaults | {name: self.refs(value) for name, value in given.items()}

    def write(self, function: Any, arguments: dict[str, Any], out: Any) -> None:
        """Write down a call and its results."""
        leaves = out if isinstance(out, (list, tuple)) else [out]
        results = tuple(self.refs(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        self.entries.append(Entry(function, arguments, results, self.sandbox.path))

    def write_whole(self, function: Any, args: Any, out: Any) -> None:
        """Write down a call that the sandbox did not take apart."""
        self.write(function, self.arguments(function, args, {}), out)

    def _schema(self, function: Any) -> tuple[list[str], dict[str, Any]]:
        arguments = function._schema.arguments
        defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
        self.schemas[function] = [argument.name for argument in arguments], defaults
        return self.schemas[function]

    def refs(self, value: Any) -> Any:
        """`value` with its tensors, nested ones too, replaced by Refs."""
        if isinstance(value, Tensor):
            self.alive.append(value)
            if not isinstance(value, FakeTensor):
                self.values[id(value)] = value
            return Ref(id(value), tuple(value.shape))
        if isinstance(value, (list, tuple)):
            return [self.refs(item) for item in value]
        return value


def record(sandbox: Sandbox, image_hw: tuple[int, int], channels: int, batch: int) -> Tape:
    """Run the backbone of `sandbox` on images of that size, computing nothing, and write down its operators."""
    recorder = _Recorder(sandbox)
    images: list[Ref] = []
    outputs = sandbox.run(
        image_hw, channels, batch, recorder, lambda image: images.append(recorder.refs(image)), recorder.write_whole
    )
    return Tape(images[0], recorder.entries, outputs, recorder.values, recorder.alive)
