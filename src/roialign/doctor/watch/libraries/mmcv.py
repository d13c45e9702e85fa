"""mmcv's operators, which its Python code calls in an extension module of its own, `mmcv._ext`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from roialign.doctor.seen.imports import at_import
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

    try:
        with at_import(_EXTENSION, watch):
            yield
    finally:
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
