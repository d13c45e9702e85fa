"""The notice that `roi_align` gives when RoIs lie off the feature map, and the policy that governs it."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import dropwhile, pairwise
from types import FrameType, TracebackType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from roialign.errors import CoverageError, RoIError, RoIWarning
from roialign.ops import notebook
from roialign.ops.calls import LEAST_COVERAGE, RoICall, unseen

Policy = Literal["warn", "raise", "ignore"]

_GENERATED = ("<eval_with_key>", "torchinductor", "codegen.py:codegen(")
_noticed: set[tuple[str, int, int | None]] = set()
explain: Callable[[RoICall, Tensor], str] | None = None
"""Finds the words for a call whose RoIs lie off the map. The doctor puts itself here."""


class _Setting(NamedTuple):
    """A policy that was set."""

    policy: Policy
    by: weakref.ref[set_policy]
    is_block: bool


_process: tuple[_Setting, ...] = ()
"""Those of the whole process; the last one holds. Each stays until nothing can take back the next one."""
_lock = threading.Lock()
_here: ContextVar[tuple[_Setting, ...]] = ContextVar("roialign policy", default=())
"""The blocks that are open in this thread or task, and what was called within them; the last one holds."""


class set_policy:
    """Choose what `roi_align` does when RoIs lie mostly or wholly off the feature map.

    Called, it holds for the whole process, in all threads, from then on. As a context manager it holds until the
    block ends, for what runs in it: in this thread or asyncio task, and in tasks that are started there; not in other
    threads, whose blocks may overlap with it. A call within a block ends with the block, and holds where that does.
    In compiled code, which gives no notices, neither does anything.

    Args:
        policy: "warn" (the default) gives one `RoIWarning` for each line of code that makes such a call, in a
            notebook again whenever a cell is run; "raise" raises `CoverageError`; "ignore" says nothing and does not
            look.

    Raises:
        ValueError: if `policy` is none of the three.

    Example:
        >>> import torch, roialign
        >>> with roialign.set_policy("raise"):
        ...     roialign.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[90.0, 90, 99, 99]])], 1)
        Traceback (most recent call last):
        roialign.errors.CoverageError: RA101: ...
    """

    def __init__(self, policy: Policy) -> None:
        global _process
        if policy not in get_args(Policy):
            raise ValueError(f"expected one of {', '.join(map(repr, get_args(Policy)))}; got {policy!r}")
        self._policy = policy
        if torch.compiler.is_compiling():  # there are no notices in compiled code
            return
        called = _Setting(policy, weakref.ref(self), False)
        if _here.get():
            _here.set(_on_top(_here.get(), called))
            return
        with _lock:
            _process = _on_top(_process, called)

    def __enter__(self) -> set_policy:
        global _process
        if torch.compiler.is_compiling():
            return self
        with _lock:  # that it was called was the beginning of a block
            _process = _not_called_by(self, _process)
        block = _Setting(self._policy, weakref.ref(self), True)
        _here.set((*_not_called_by(self, _here.get()), block))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if torch.compiler.is_compiling():
            return
        settings = _here.get()
        own = [place for place, one in enumerate(settings) if one.is_block and one.by() is self]
        if own:  # else the block ends in another task than it began in, as that of a generator may
            after = dropwhile(lambda one: not one.is_block, settings[own[-1] + 1 :])
            _here.set((*settings[: own[-1]], *after))


def get_policy() -> Policy:
    """The policy that is in force here."""
    settings = _here.get() or _process
    return settings[-1].policy if settings else "warn"


def _on_top(settings: tuple[_Setting, ...], called: _Setting) -> tuple[_Setting, ...]:
    """The settings with another one, without those that a call hides which can begin no block any more."""
    pairs = pairwise((*settings, called))
    return (*(one for one, next_one in pairs if one.is_block or next_one.is_block or next_one.by()), called)


def _not_called_by(one: set_policy, settings: tuple[_Setting, ...]) -> tuple[_Setting, ...]:
    return tuple(setting for setting in settings if setting.is_block or setting.by() is not one)


OffTheMap = Callable[[Tensor], Callable[[], str] | None]
"""From the coverage [K] of a call to what to say of its RoIs that lie off the map; None where none does."""


def look(coverage: Tensor, off_the_map: OffTheMap) -> None:
    """Warn or raise, as the policy says, if RoIs lie off the map."""
    if get_policy() == "ignore":
        return
    with unseen():
        if not any_low(coverage):
            return
        words = off_the_map(coverage)
        if words is not None:
            say(words)


def of_call(call: RoICall, coverage: Tensor) -> Callable[[], str] | None:
    """What to say of a call on one map, in the doctor's words."""
    words = explain
    if words is None or not bool(call.off_the_map(coverage).any()):
        return None
    return partial(words, call, coverage)


def any_low(coverage: Tensor) -> bool:
    """Whether any RoI has most of its samples off the map."""
    return coverage.numel() > 0 and float(coverage.min()) < LEAST_COVERAGE


def say(words: Callable[[], str], error: type[RoIError] = CoverageError) -> None:
    """Warn, once for each line of code, or raise an `error`, as the policy says.

    A cell of a notebook that is run again loses what it said, so it is warned again.
    """
    policy = get_policy()
    if policy == "ignore":
        return
    if policy == "raise":
        raise error(words())
    frame = calling_frame(("roialign", "torch", "torchvision"))
    path, line = frame.f_code.co_filename, frame.f_lineno
    site = (path, line, notebook.run())
    if site in _noticed:
        return
    _noticed.add(site)
    warnings.warn_explicit(words(), RoIWarning, notebook.source_file(path), line)


def calling_frame(packages: Sequence[str]) -> FrameType:
    """The innermost frame of the program that is in none of these packages, nor made by a compiler of torch."""
    outermost = sys._getframe(1)
    frame: FrameType | None = outermost
    while frame is not None:
        package, path = frame.f_globals.get("__name__", "").partition(".")[0], frame.f_code.co_filename
        if package not in packages and not any(mark in path for mark in _GENERATED):
            return frame
        outermost, frame = frame, frame.f_back
    return outermost
