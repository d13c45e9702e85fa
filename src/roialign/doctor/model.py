"""The grids of the maps that watched modules make, found by tracing those that take the image."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from roialign.backbones.layout import Layout
from roialign.backbones.sandbox import twin_of
from roialign.backbones.scrambled import Scrambled
from roialign.backbones.trace import trace
from roialign.errors import TraceError
from roialign.geometry import FeatureGrid

_MOST_TRACES = 8  # of one module, each at another image size
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_NEEDED_HOOKS_OF = ("torch", "timm", "transformers")  # which compute weights or collect what is returned
_DISTRIBUTED = ("torch.distributed", "torch.nn.parallel", "deepspeed", "fairscale")


class ModelGrids:
    """The grids of modules' maps, traced when they are first asked for.

    `model` is the one that was handed over, if any; its modules have names.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        modules = model.named_modules() if model is not None else ()
        self._names = {id(module): name.replace("_orig_mod.", "") for name, module in modules}
        self._model = model
        self._lock = threading.RLock()
        self._traces: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, int], _Traced | None]]
        self._traces = weakref.WeakKeyDictionary()

    def name_of(self, module: nn.Module) -> str | None:
        """How to write `module` where the model is called `model`; None if it is no part of it."""
        name = self._names.get(id(module))
        return None if name is None else f"model.{name}".rstrip(".")

    def of(
        self, module: nn.Module, image_size_hw: tuple[int, int], channels: int, shape: Sequence[int]
    ) -> FeatureGrid | None:
        """The grid of a map of this shape that `module`, or what follows it, made of such an image.

        The grid may have another size than the map, where the map's axes are surely not [N, C, H, W]. A module that
        could not be traced at one size is not tried again at another.
        """
        with self._lock:
            traces = self._traces.setdefault(module, {})
            if image_size_hw not in traces:
                for traced in traces.values():
                    grid = None if traced is None else _at_another_size(traced.grids, image_size_hw, shape)
                    if grid is not None:
                        return grid
            found = self._traced(module, image_size_hw, channels)
        return None if found is None else _matching(found.grids, shape)

    def scrambled(
        self, module: nn.Module, image_size_hw: tuple[int, int], channels: int, shape: Sequence[int]
    ) -> Scrambled | None:
        """What is out of order in the map of this shape that `module` made of such an image, if it has a fault."""
        if self.of(module, image_size_hw, channels, shape) is not None:
            return None
        with self._lock:
            found = self._traced(module, image_size_hw, channels)
        alike = [one for one in found.scrambled if _is_of_shape(one.layout, shape)] if found is not None else []
        return alike[0] if alike else None

    def _traced(self, module: nn.Module, image_size_hw: tuple[int, int], channels: int) -> _Traced | None:
        traces = self._traces.setdefault(module, {})
        if image_size_hw not in traces and len(traces) < _MOST_TRACES and None not in traces.values():
            traces[image_size_hw] = _traced(module, image_size_hw, channels)
        return traces.get(image_size_hw)


class _Traced(NamedTuple):
    """What a trace found."""

    grids: Sequence[FeatureGrid]
    scrambled: Sequence[Scrambled] = ()


def _is_of_shape(layout: Layout, shape: Sequence[int]) -> bool:
    """Whether a map [N, C, H, W] of this shape may be the one of this layout as it was returned."""
    return layout.kind == "NCHW" and (layout.channels, *layout.size_hw) == tuple(shape[1:])


def _matching(grids: Sequence[FeatureGrid], shape: Sequence[int]) -> FeatureGrid | None:
    """The grid of the map [N, C, H, W] of this shape; of one whose axes are in another order, where none fits."""
    _, axis_1, axis_2, axis_3 = shape
    as_it_is = [grid for grid in grids if grid.size_hw == (axis_2, axis_3)]
    channels_last = [g for g in grids if g.size_hw == (axis_1, axis_2) and g.channels == axis_3]
    swapped = [g for g in grids if g.size_hw == (axis_3, axis_2) and g.channels == axis_1]
    return _only(as_it_is, axis_1) or _only(channels_last, axis_3) or _only(swapped, axis_1)


def _at_another_size(
    traced: Sequence[FeatureGrid], image_size_hw: tuple[int, int], shape: Sequence[int]
) -> FeatureGrid | None:
    """The grid at an image size that was not traced, if the strides of a map that was explain the size of this."""
    size_hw = (shape[2], shape[3])

    def explains(grid: FeatureGrid) -> bool:
        pairs = zip(image_size_hw, size_hw, grid.stride_yx, strict=True)
        return all(abs(image / stride - cells) < 1 for image, cells, stride in pairs)

    grids = [replace(grid, size_hw=size_hw) for grid in traced if explains(grid)]
    return _only(grids, shape[1], channels_matter=True)


def _only(grids: list[FeatureGrid], channels: int, channels_matter: bool = False) -> FeatureGrid | None:
    """The grid that all candidates have, those with the right channels first; None if they differ."""
    of_these_channels = [grid for grid in grids if grid.channels == channels]
    candidates = of_these_channels if of_these_channels or channels_matter else grids
    return candidates[0] if len({grid.stride_yx for grid in candidates}) == 1 else None


def _traced(module: nn.Module, image_size_hw: tuple[int, int], channels: int) -> _Traced | None:
    if isinstance(module, torch.jit.ScriptModule) or _is_distributed(module):
        return None
    twin = twin_of(module)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(_Others(sys.stdout)),
            torch.inference_mode(False),
            _without_foreign_hooks(twin),
        ):
            warnings.simplefilter("ignore")
            found = trace(twin, image_size_hw, channels=channels, measured=False)
            return _Traced(tuple(found.values()), tuple(found.scrambled.values()))
    except TraceError as error:
        return _Traced((), tuple(error.scrambled.values())) if error.scrambled else None
    except Exception:  # what cannot be traced is watched without its grids
        return None


def _is_distributed(module: nn.Module) -> bool:
    """Whether running it would speak to other processes."""
    kinds = {kind for one in module.modules() for kind in type(one).__mro__}
    return any(kind.__module__.startswith(_DISTRIBUTED) for kind in kinds)


class _Others(io.TextIOBase):
    """Standard output for all threads but this one, which runs a program's module once more."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._silent = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._silent else self._output.write(text)

    def flush(self) -> None:
        self._output.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_output"], name)


@contextmanager
def _without_foreign_hooks(module: nn.Module) -> Iterator[None]:
    """No hook of the program's own sees the tensors without values that a trace runs on."""
    kept = [(one, name, one.__dict__[name]) for one in module.modules() for name in _HOOKS if one.__dict__.get(name)]
    try:
        for one, name, hooks in kept:
            one.__dict__[name] = OrderedDict((key, hook) for key, hook in hooks.items() if _is_needed(hook))
        yield
    finally:
        for one, name, hooks in kept:
            one.__dict__[name] = hooks


def _is_needed(hook: Any) -> bool:
    defined_in = getattr(getattr(hook, "func", hook), "__module__", None) or ""
    return defined_in.partition(".")[0] in _NEEDED_HOOKS_OF
