"""mmcv's operators, which its Python code calls in an extension module of its own, `mmcv._ext`."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from roialign.doctor.watch.libraries.shows import Shows
from roialign.ops.calls import unseen

_EXTENSION = "mmcv._ext"
_OPERATORS = {
    "roi_align_forward": ("mmcv.ops.RoIAlign", "aligned_height", "aligned_width"),
    "roi_pool_forward": ("mmcv.ops.RoIPool", "pooled_height", "pooled_width"),
}
"""Functions of the extension: what their users call them, and the names of two of their arguments."""


@contextmanager
def watched(shows: Shows) -> Iterator[None]:
    """Show the calls that mmcv makes, whether it is imported already or will be."""
    replaced: list[tuple[ModuleType, str, Any, Any]] = []

    def watch(extension: ModuleType) -> None:
        for name in _OPERATORS:
            function = getattr(extension, name, None)
            if function is not None:
                ours = _watched_function(name, function, shows)
                replaced.append((extension, name, function, ours))
                setattr(extension, name, ours)

    finder = _AfterImport(_EXTENSION, watch)
    if _EXTENSION in sys.modules:
        watch(sys.modules[_EXTENSION])
    else:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        for extension, name, function, ours in replaced:
            if getattr(extension, name, None) is ours:  # else the program put something else there
                setattr(extension, name, function)


def _watched_function(name: str, function: Callable[..., Any], shows: Shows) -> Callable[..., Any]:
    operator, height, width = _OPERATORS[name]

    @functools.wraps(function)
    def watched_function(*args: Any, **kwargs: Any) -> Any:
        whole = len(args) >= 2 and {height, width, "spatial_scale"} <= kwargs.keys()
        if whole and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            features, rois = args[:2]
            size_hw = (kwargs[height], kwargs[width])
            options = (kwargs["spatial_scale"], kwargs.get("sampling_ratio", -1), kwargs.get("aligned", False))
            with unseen():
                shows.call(operator, "mmcv", (features, rois, size_hw, *options))
            if len(args) > 2:
                shows.pooled(args[2])  # which it writes to
        return function(*args, **kwargs)

    return watched_function


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module when it has been imported."""

    def __init__(self, name: str, function: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._function = function

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, self._function)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads as another loader does, and then calls a function with the module."""

    def __init__(self, loader: Any, function: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._function = function

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._function(module)
