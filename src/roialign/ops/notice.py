"""The notice that `roi_align` gives when RoIs lie off the feature map, and the policy that governs it."""

from __future__ import annotations

import atexit
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import dropwhile, pairwise
from types import FrameType, TracebackType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from roialign.errors import CoverageError, OptionError, RoIError, RoIWarning
from roialign.ops import later, notebook
from roialign.ops.calls import LEAST_COVERAGE, RoICall, unseen
from roialign.ops.validate.words import describe

Policy = Literal["warn", "raise", "ignore"]

_GENERATED = ("<eval_with_key>", "torchinductor", "codegen.py:codegen(")
_FEW = 16  # numbers that are sooner read in Python than by an operator
_noticed: set[_Site] = set()
explain: Callable[[RoICall, Tensor], str] | None = None
"""Finds the words for a call whose RoIs lie off the map. The doctor puts itself here."""


class _Setting(NamedTuple):
    """A policy that was set."""

    policy: Policy
    by: weakref.ref[set_policy]
    is_block: bool
    strict: bool


_process: tuple[_Setting, ...] = ()
"""Those of the whole process; the last one holds. Each stays until nothing can take back the next one."""
_lock = threading.Lock()
_here: ContextVar[tuple[_Setting, ...]] = ContextVar("roialign policy", default=())
"""The blocks that are open in this thread or task, and what was called within them; the last one holds."""


class set_policy:
    """Choose what `roi_align` does when RoIs lie mostly or wholly off the feature map.

    As a function it applies to the whole process, in all threads, from then on. As a context manager it applies until
    the block ends, in this thread or asyncio task and in tasks started there, but not in other threads, whose blocks
    may overlap with it. A call within a block has the block's scope and ends with it. Compiled code gives no notices,
    so neither has an effect there.

    Args:
        policy: "warn" (the default) gives one `RoIWarning` per line of code that makes such a call, in a notebook once
            per run of a cell; "raise" raises `CoverageError`; "ignore" checks nothing.
        strict: whether a call on a GPU waits for its RoIs' coverage, so that the notice comes at once. Otherwise it
            comes at a later call or at the end, with the line of this call. By default "raise" waits and "warn" does
            not. On the CPU there is nothing to wait for.

    Raises:
        ValueError: if `policy` is none of the three.

    Example:
        >>> import torch, roialign
        >>> with roialign.set_policy("raise"):
        ...     roialign.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[90.0, 90, 99, 99]])], 1)
        Traceback (most recent call last):
        roialign.errors.CoverageError: RA101: ...
    """

    def __init__(self, policy: Policy, *, strict: bool | None = None) -> None:
        global _process
        if not isinstance(policy, str) or policy not in get_args(Policy):
            known = ", ".join(map(repr, get_args(Policy)))
            raise OptionError(
                f"RA506: expected a policy, one of {known}; got {describe(policy)}. 'warn' is the default."
            )
        self._policy = policy
        self._strict = policy == "raise" if strict is None else strict
        if torch.compiler.is_compiling():  # there are no notices in compiled code
            return
        called = _Setting(policy, weakref.ref(self), False, self._strict)
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
        block = _Setting(self._policy, weakref.ref(self), True, self._strict)
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
    """The current policy."""
    return _in_force()[0]


def _in_force() -> tuple[Policy, bool]:
    """The policy, and whether it is strict."""
    settings = _here.get() or _process
    return (settings[-1].policy, settings[-1].strict) if settings else ("warn", False)


def _on_top(settings: tuple[_Setting, ...], called: _Setting) -> tuple[_Setting, ...]:
    """The settings with another one, without those that a call hides which can begin no block any more."""
    pairs = pairwise((*settings, called))
    return (*(one for one, next_one in pairs if one.is_block or next_one.is_block or next_one.by()), called)


def _not_called_by(one: set_policy, settings: tuple[_Setting, ...]) -> tuple[_Setting, ...]:
    return tuple(setting for setting in settings if setting.is_block or setting.by() is not one)


OffTheMap = Callable[[Tensor, Tensor], Callable[[], str] | None]
"""From the coverage [K] and the rois [K, ...] of a call to what to say of those that lie off the map; None where none
does."""


class _Waiting(NamedTuple):
    """A call whose coverage is on its way from a GPU."""

    coverage: Tensor
    rois: Tensor
    arrival: later.Arrival
    off_the_map: OffTheMap
    site: _Site
    policy: Policy


_waiting: deque[_Waiting] = deque()


def look(coverage: Tensor, rois: Tensor, off_the_map: OffTheMap) -> None:
    """Warn or raise, as the policy says, if RoIs lie off the map; of a call on a GPU when its numbers have arrived."""
    policy, strict = _in_force()
    if policy == "ignore":
        return
    with unseen():
        if not later.must_wait(coverage):
            _look_now(coverage, rois, off_the_map, policy)
            return
        if later.is_capturing(coverage):
            return
        if strict:
            _look_now(coverage, rois, off_the_map, policy)
            return
        numbers = later.to_host(coverage), later.to_host(rois)
        _waiting.append(_Waiting(*numbers, later.Arrival.after(coverage), off_the_map, _Site.here(), policy))
        catch_up(wait=False)


@atexit.register
def catch_up(wait: bool = True) -> None:
    """Say what is to be said of calls that waited for their GPU: of all, or of those whose numbers have arrived."""
    while _waiting and (wait or len(_waiting) > later.MOST_WAITING or _waiting[0].arrival.is_ready()):
        waited = _waiting.popleft()
        waited.arrival.wait()
        _look_now(waited.coverage, waited.rois, waited.off_the_map, waited.policy, waited.site)


def _look_now(
    coverage: Tensor, rois: Tensor, off_the_map: OffTheMap, policy: Policy, site: _Site | None = None
) -> None:
    if any_low(coverage):
        words = off_the_map(coverage, rois)
        if words is not None:
            _say(words, CoverageError, policy, site or _Site.here())


def of_call(call: RoICall, coverage: Tensor) -> Callable[[], str] | None:
    """What to say of a call on one map, in the doctor's words."""
    words = explain
    if words is None or not bool(call.off_the_map(coverage).any()):
        return None
    return partial(words, call, coverage)


def any_low(coverage: Tensor) -> bool:
    """Whether any RoI has most of its samples off the map."""
    if len(coverage) <= _FEW:
        return min(coverage.tolist(), default=1.0) < LEAST_COVERAGE
    return coverage.min().item() < LEAST_COVERAGE


def say(words: Callable[[], str], error: type[RoIError] = CoverageError) -> None:
    """Warn, once for each line of code, or raise an `error`, as the policy says."""
    policy = get_policy()
    if policy != "ignore":
        _say(words, error, policy, _Site.here())


class _Site(NamedTuple):
    """The line of the program that makes a call. A cell of a notebook that is run again is another one."""

    path: str
    line: int
    run: int | None

    @classmethod
    def here(cls) -> _Site:
        frame = calling_frame(("roialign", "torch", "torchvision"))
        return cls(frame.f_code.co_filename, frame.f_lineno, notebook.run())


def _say(words: Callable[[], str], error: type[RoIError], policy: Policy, site: _Site) -> None:
    if policy == "raise":
        raise error(words())
    if site not in _noticed:
        _noticed.add(site)
        warnings.warn_explicit(words(), RoIWarning, notebook.source_file(site.path), site.line)


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
