"""Tracing within a program that may be compiled, exported or recorded; and which of the traced maps are pooled from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd.graph import saved_tensors_hooks

from roialign.backbones import BackboneTrace, trace
from roialign.backbones.sandbox import twin_of
from roialign.backbones.sizes import SizeFamily
from roialign.backbones.trace import strides_hold_at_any_size, trace_again
from roialign.errors import FeatureMapError, LevelError
from roialign.geometry.grid import OffsetKind
from roialign.ops.calls import unseen


def outside_of_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which a compiler is to call rather than to look into; torch's decorator would import its compiler."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function


@contextmanager
def _unseen() -> Iterator[None]:
    """What is done is no part of the program's work: to compilers, counters, recorders, and those who look at calls."""
    levels = temporarily_clear_interpreter_stack()  # of torch.func
    with levels, _not_recorded(), unseen(), saved_tensors_hooks(_as_it_is, _as_it_is):
        yield


class Tracer:
    """Traces of one backbone at the sizes that come, the later ones quicker than the first."""

    def __init__(self, offset: OffsetKind) -> None:
        self.offset = offset
        self._first: BackboneTrace | None = None
        self._asked = False

    def trace(self, backbone: nn.Module, image_hw: Sequence[int | torch.SymInt]) -> BackboneTrace:
        """The trace at images of this size."""
        height, width = map(_as_shown, image_hw)
        backbone = twin_of(backbone)
        with _unseen():
            if self._first is not None:
                return trace_again(backbone, (height, width), self._first, offset=self.offset)
            self._first = trace(backbone, image_size=(height, width), offset=self.offset, measured=False)
            return self._first

    def family_of_all(self, backbone: nn.Module) -> SizeFamily | None:
        """All image sizes, if the first trace's strides are known to hold at all of them, and no more is needed."""
        if self._first is None or self._asked or self.offset != "convention":
            return None
        self._asked = True
        with _unseen():
            holds = strides_hold_at_any_size(twin_of(backbone), self._first)
        return SizeFamily(self._first, 1, exact=False) if holds else None


def pooled_maps(traced: BackboneTrace, maps: Sequence[str] | None) -> list[str]:
    """The names of the maps to pool from: those that were named; or the rungs of a pyramid; or the last map.

    A pyramid's maps have one number of channels, and a stride each.

    Raises:
        LevelError: RA401, for a name that no map has.
        FeatureMapError: RA306, if maps of different depth were named.
    """
    there = ", ".join(map(repr, traced))
    if maps is None:
        are_one_depth = len({traced[name].channels for name in traced}) == 1
        strides = {traced[name].stride_yx for name in traced}
        return list(traced) if are_one_depth and len(strides) == len(traced) else list(traced)[-1:]
    for name in maps:
        if name not in traced:
            height, width = traced.image_size_hw
            raise LevelError(
                f"RA401: expected maps among {there}; got {name!r}. Use maps=[{list(traced)[-1]!r}], or print the "
                f"extractor's trace(({height}, {width})) to see them all."
            )
    first = maps[0]
    for name in maps:
        if traced[name].channels != traced[first].channels:
            raise FeatureMapError(
                "RA306: expected maps with the same number of channels, because each box is pooled from one of them; "
                f"got {first!r} with {traced[first].channels} and {name!r} with {traced[name].channels}. Name one, "
                f"maps=[{name!r}], or use an extractor for each; there are {there}."
            )
    return list(maps)


@contextmanager
def _not_recorded() -> Iterator[None]:
    """torch.jit.trace, where it is at work, sees nothing of what is done."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _as_shown(side: int | torch.SymInt) -> int:
    """A side of the images that an exporter was shown, where it keeps the size open."""
    number: Any = side.node.hint if isinstance(side, torch.SymInt) else side
    return int(number)


def _as_it_is(saved: Tensor) -> Tensor:
    return saved
