"""The notice that `roi_align` gives when RoIs lie off the feature map, and the policy that governs it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Literal, get_args

from torch import Tensor

from roialign.errors import CoverageError, RoIError, RoIWarning
from roialign.ops import notebook
from roialign.ops.calls import LEAST_COVERAGE, RoICall

Policy = Literal["warn", "raise", "ignore"]

_GENERATED = ("<eval_with_key>", "torchinductor", "codegen.py:codegen(")
_policy: Policy = "warn"
_noticed: set[tuple[str, int, int | None]] = set()
explain: Callable[[RoICall, Tensor], str] | None = None
"""Finds the words for a call whose RoIs lie off the map. The doctor puts itself here."""


class set_policy:
    """Choose what `roi_align` does when RoIs lie mostly or wholly off the feature map.

    The policy holds for the whole process, from the call on; as a context manager, until the block ends.

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
        global _policy
        if policy not in get_args(Policy):
            raise ValueError(f"expected one of {', '.join(map(repr, get_args(Policy)))}; got {policy!r}")
        self._previous, _policy = _policy, policy

    def __enter__(self) -> set_policy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _policy
        _policy = self._previous


def get_policy() -> Policy:
    """The policy that is in force."""
    return _policy


def look(call: RoICall, coverage: Tensor, shown_as: Callable[[RoICall], RoICall] | None = None) -> None:
    """Warn or raise, as the policy says, if RoIs of `call`, or of what it is shown as, lie off the map."""
    words = explain
    if _policy == "ignore" or words is None or not any_low(coverage):
        return
    shown = shown_as(call) if shown_as else call
    if bool(shown.off_the_map(coverage).any()):
        say(lambda: words(shown, coverage))


def any_low(coverage: Tensor) -> bool:
    """Whether any RoI has most of its samples off the map."""
    return coverage.numel() > 0 and float(coverage.min()) < LEAST_COVERAGE


def say(words: Callable[[], str], error: type[RoIError] = CoverageError) -> None:
    """Warn, once for each line of code, or raise an `error`, as the policy says.

    A cell of a notebook that is run again loses what it said, so it is warned again.
    """
    if _policy == "ignore":
        return
    if _policy == "raise":
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
