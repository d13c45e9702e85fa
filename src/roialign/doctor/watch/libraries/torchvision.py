"""torchvision's operators, as its own Python code and everybody else's calls them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from roialign.doctor.evidence import Caller
from roialign.doctor.watch.libraries.shows import Shows
from roialign.ops.calls import unseen

_TENSORS, _SIZES = ("input", "rois"), ("spatial_scale", "pooled_height", "pooled_width")
OPERATORS = {
    "roi_align": (*_TENSORS, *_SIZES, "sampling_ratio", "aligned"),
    "roi_pool": (*_TENSORS, *_SIZES),
    "ps_roi_align": (*_TENSORS, *_SIZES, "sampling_ratio"),
    "ps_roi_pool": (*_TENSORS, *_SIZES),
}
"""The operators and the names of their arguments."""


def as_roi_align(operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """The arguments of the call of `roi_align` nearest to it; None where they are none of the operator's."""
    names = OPERATORS[operator]
    given = dict(zip(names, args, strict=False)) | kwargs
    if len(args) > len(names) or set(given) != set(names):
        return None
    ratio, aligned = given.get("sampling_ratio", -1), given.get("aligned", operator == "ps_roi_align")
    size_hw = (given["pooled_height"], given["pooled_width"])
    return given["input"], given["rois"], size_hw, given["spatial_scale"], ratio, aligned


class _WatchedOperator:
    """Stands in for an operator in `torch.ops.torchvision`, shows the call, and passes it on.

    Every Python caller fetches the operator from this namespace at each call: torchvision's functions, modules,
    MultiScaleRoIAlign and detection models, and detectron2. To the JIT it is the operator itself.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._operator: Any = None  # until torchvision is imported and the operator is used

    def begin(self, shows: Shows, fetched: Callable[[], None]) -> None:
        """Stand in; `fetched` is called when torchvision turns out to be there."""
        self._shows, self._fetched = shows, fetched
        self._operator = torch.ops.torchvision.__dict__.get(self._name)
        torch.ops.torchvision.__dict__[self._name] = self

    def end(self) -> None:
        """Put the operator back, unless the program has removed it or put another there."""
        namespace, operator = torch.ops.torchvision.__dict__, self._operator
        if namespace.get(self._name) is not self:
            return
        del namespace[self._name]
        if operator is not None:
            namespace[self._name] = operator

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._operator is None:
            self._fetch()
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._operator(*args, **kwargs)
        arguments = as_roi_align(self._name, args, kwargs)
        if arguments is not None and all(type(one) in (Tensor, nn.Parameter) for one in arguments[:2]):
            with unseen():
                caller, given = Caller.of("torchvision", *arguments[:2]), _boxes_as_given(sys._getframe(1))
                self._shows.call(self._name, "torchvision", arguments, caller, given)
        with self._shows.within():
            return self._operator(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if self._operator is None:
            self._fetch()
        return getattr(self._operator, name)

    def _fetch(self) -> None:
        namespace = torch.ops.torchvision
        self._operator = type(namespace).__getattr__(namespace, self._name)  # which puts itself into the namespace
        namespace.__dict__[self._name] = self
        self._fetched()


def _boxes_as_given(frame: FrameType | None) -> Any:
    """The boxes as the program gave them to torchvision's functions, which make rows of lists."""
    boxes = None
    while frame is not None and frame.f_globals.get("__name__", "").startswith("torchvision.ops."):
        boxes, frame = frame.f_locals.get("boxes", boxes), frame.f_back
    return boxes


# The same ones for every watch: compiled code knows them and would be compiled anew for each, and the JIT knows its
# builtins by their addresses.
_STAND_INS: dict[str, _WatchedOperator] = {}


@contextmanager
def watched(shows: Shows, fetched: Callable[[], None]) -> Iterator[None]:
    """Put a stand-in before each operator; `fetched` is called when torchvision turns out to be there."""
    for name in OPERATORS:
        if name not in _STAND_INS:
            _STAND_INS[name] = _WatchedOperator(name)
            torch.jit._builtins._register_builtin(_STAND_INS[name], f"torchvision::{name}")
    for stand_in in _STAND_INS.values():
        stand_in.begin(shows, fetched)
    try:
        yield
    finally:
        for stand_in in _STAND_INS.values():
            stand_in.end()
