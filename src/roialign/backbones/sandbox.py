"""Running a backbone on fake tensors, which have shapes and no values, without leaving a trace in it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from roialign.backbones.recurrent import OnWhole, WholeRecurrent
from roialign.errors import TraceError

_LONGEST = 150  # signs of another's message


class Sandbox:
    """A context in which a backbone can be run on fake images, in eval mode, and is put back afterwards.

    values: the parameters and buffers, by the id of the fake tensor that stands for each.
    path: the name of the module that runs.
    failed_in: the name of the module that an error came from.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.values: dict[int, Tensor] = {}
        self._exits = ExitStack()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._stack: list[str] = []
        self.failed_in = ""

    @property
    def path(self) -> str:
        return self._stack[-1] if self._stack else ""

    def __enter__(self) -> Sandbox:
        with ExitStack() as exits:
            exits.enter_context(attributes_kept(self.backbone))
            exits.enter_context(_without_tracebacks())
            exits.callback(torch.set_rng_state, torch.get_rng_state())
            exits.callback(random.setstate, random.getstate())
            exits.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            for module in self.backbone.modules():
                module.__dict__["training"] = False
            self._fakes = self._as_fakes()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def _as_fakes(self) -> dict[str, Tensor]:
        fakes: dict[str, Tensor] = {}
        named = [*self.backbone.named_parameters(), *self.backbone.named_buffers()]
        if any(nn.parameter.is_lazy(tensor) for _, tensor in named):
            raise TraceError("RA308: expected a backbone whose parameters have shapes; run lazy modules once first.")
        for name, tensor in named:
            fake = self._mode.from_tensor(tensor.detach(), static_shapes=True)
            fakes[name] = fake
            self.values[id(fake)] = tensor
        return fakes

    def run(
        self,
        image_hw: Sequence[int],
        channels: int,
        batch: int = 1,
        watcher: TorchDispatchMode | None = None,
        on_image: Callable[[Tensor], None] | None = None,
        on_whole: OnWhole | None = None,
    ) -> Any:
        """What the backbone returns for a fake image; `watcher` sees each operator, `on_whole` recurrent layers."""
        first = next((p for p in self.backbone.parameters() if p.is_floating_point()), torch.empty(0))
        with ExitStack() as exits:
            exits.enter_context(torch.no_grad())
            exits.enter_context(self._mode)
            image = torch.empty(batch, channels, *image_hw, dtype=first.dtype, device=first.device)
            if on_image is not None:
                on_image(image)
            if watcher is not None:
                self._watch_modules(exits)
                exits.enter_context(watcher)
            exits.enter_context(WholeRecurrent(on_whole))
            return torch.func.functional_call(self.backbone, self._fakes, (image,))

    def _watch_modules(self, exits: ExitStack) -> None:
        """Keep the name of the running module on the stack."""
        names, thread = {id(module): name for name, module in self.backbone.named_modules()}, threading.get_ident()

        def enter(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread:  # these hooks are of all modules in all threads
                self._stack.append(names.get(id(module), self.path))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                self.failed_in = self._stack.pop()

        exits.callback(self._stack.clear)
        exits.callback(module_hooks.register_module_forward_pre_hook(enter).remove)
        exits.callback(module_hooks.register_module_forward_hook(leave, always_call=True).remove)


def twin_of(backbone: nn.Module) -> nn.Module:
    """The same modules again, of the same parameters, to be traced while other threads run the program's own.

    A compiled module's is that of the module that was compiled. Scripted modules have none, and come back themselves.
    """
    backbone = getattr(backbone, "_orig_mod", backbone)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in backbone.modules())
    return backbone if scripted else _twin(backbone, {})


def _twin(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    if id(module) in known:
        return known[id(module)]
    twin = known[id(module)] = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers"):
        twin.__dict__[name] = dict(module.__dict__[name])
    children = module._modules.items()
    twin.__dict__["_modules"] = {name: child and _twin(child, known) for name, child in children}
    forward = module.__dict__.get("forward")
    if isinstance(forward, MethodType) and forward.__self__ is module:
        twin.__dict__["forward"] = MethodType(forward.__func__, twin)
    return twin


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Nothing on stderr where an operator does not take its shapes: torch logs a traceback besides raising."""
    log, thread = logging.getLogger("torch._subclasses.fake_tensor"), threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno < logging.ERROR

    log.addFilter(passes)
    try:
        yield
    finally:
        log.removeFilter(passes)


@contextmanager
def attributes_kept(backbone: nn.Module) -> Iterator[None]:
    """Put back what modules keep in attributes when they run, such as modes, counters and caches.

    Parameters too: of a module with two names torch.func.functional_call leaves those that it put in.
    """
    states = [
        (module, dict(module.__dict__), dict(module._buffers), dict(module._parameters))
        for module in backbone.modules()
    ]
    caches = [
        (value, dict(value))
        for _, attributes, _, _ in states
        for name, value in attributes.items()
        if type(value) is dict and not name.startswith("_")  # timm's attention biases by device, for one
    ]
    try:
        yield
    finally:
        for module, attributes, buffers, parameters in states:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
        for cache, contents in caches:
            cache.clear()
            cache.update(contents)


def first_line(error: BaseException) -> str:
    """What kind of error, and the start of its message, in whole words."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".!") if lines else ""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST].rpartition(' ')[0] or text} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
