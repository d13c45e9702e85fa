"""Shows calls to those who look, each once, and stops those that would not come back."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from roialign import errors
from roialign.doctor.checks import rows
from roialign.doctor.diagnose import diagnose
from roialign.doctor.evidence import Caller
from roialign.doctor.findings import Finding
from roialign.ops import later
from roialign.ops.calls import RoICall, unseen
from roialign.ops.functions import function_of
from roialign.ops.roi_align import as_call
from roialign.ops.validate import is_dense
from roialign.regions.pool import RegionsCall

"""Operators that crash the process where a sample has no place."""


class _ThisThread(threading.local):
    shown = False
    """Whether a call is being shown or was shown already on its way down; what happens below it is no call."""
    rois: weakref.ref[Tensor] | None = None
    """The boxes of the last call of roialign's own, which is yet to reach its kernel."""


class Shows:
    """Passes calls on to all who look."""

    def __init__(self, lookers: Callable[[], Sequence[Any]]) -> None:
        self._lookers = lookers
        self._thread = _ThisThread()

    @property
    def is_within(self) -> bool:
        """Whether this thread is below a call that was shown."""
        return self._thread.shown

    @contextmanager
    def within(self) -> Iterator[None]:
        """Show nothing of what is called below."""
        before, self._thread.shown = self._thread.shown, True
        try:
            yield
        finally:
            self._thread.shown = before

    def own_call(self, call: RoICall | RegionsCall) -> None:
        """Show a call of roialign's own functions."""
        if not self.is_within and not is_in_backward():
            caller = Caller.of("roialign", call.input, call.rois) if isinstance(call, RoICall) else None
            self._show(call, caller)
            self._thread.rois = weakref.ref(call.rois)

    def is_own(self, rois: Tensor) -> bool:
        """Whether a kernel of roialign was given these boxes by a call that was shown already; asked once."""
        last, self._thread.rois = self._thread.rois, None
        return last is not None and last() is rois

    def region_call(self, call: RegionsCall) -> None:
        """Show a call of `pool_regions` that only its kernel tells of."""
        self._show(call, None)

    def call(
        self,
        operator: str,
        library: str,
        arguments: tuple[Any, ...],
        caller: Caller | None = None,
        boxes_as_given: Any = None,
    ) -> None:
        """Show a call, as the arguments of `roi_align`; raise where it would crash or read out of bounds.

        `boxes_as_given` are the boxes before the library made rows of them, where that is known.
        """
        features, boxes = arguments[:2]
        if self.is_within or is_in_backward():
            return
        if type(features) not in (Tensor, nn.Parameter) or type(boxes) not in (Tensor, nn.Parameter):
            return
        try:
            call = as_call(*arguments).with_(operator=operator)
            if isinstance(boxes_as_given, (list, tuple)):
                call = call.with_(lists=len(boxes_as_given))
        except errors.RoIError as error:
            with self.within(), unseen(), torch.no_grad():
                given = boxes_as_given if isinstance(boxes_as_given, (list, tuple)) else boxes
                diagnosis = diagnose(features, given, *arguments[2:])
                for looker in self._lookers():
                    looker.refuse(diagnosis)
            if (
                is_dense(features)
                and features.dim() == 4
                and (0 in features.shape[2:] or _has_no_place(operator, arguments))
            ):
                raise error
            return
        if not call.is_concrete():
            return
        self._show(call, caller)
        if not later.must_wait(features):
            with self.within(), unseen(), torch.no_grad():
                _stop_if_deadly(call, library)

    def pooled(self, output: Any) -> None:
        """Show what an operator made."""
        if type(output) is Tensor:
            for looker in self._lookers():
                looker.pooled(output)

    def _show(self, call: RoICall | RegionsCall, caller: Caller | None) -> None:
        with self.within():
            for looker in self._lookers():
                looker.see(call, caller)


def is_in_backward() -> bool:
    """Whether autograd calls: for second derivatives, or to compute again what a checkpoint did not keep.

    That is no call of the program, or one that was seen.
    """
    return torch._C._current_graph_task_id() != -1


def _has_no_place(operator: str, arguments: tuple[Any, ...]) -> bool:
    """Whether the scale puts samples nowhere."""
    return function_of(operator).is_sampled and arguments[4] > 0 and not math.isfinite(arguments[3])


def _stop_if_deadly(call: RoICall, library: str) -> None:
    index = call.rois[:, 0].trunc()  # as C++ makes a whole number of it
    if not bool(((index >= 0) & (index < call.input.shape[0])).all()):
        finding = rows.image_indices(call, call.coverage())
        raise errors.BatchIndexError(_words(finding, library, "read out of bounds"))
    if function_of(call.operator).is_sampled and call.sampling_ratio > 0 and not bool(call.rois.isfinite().all()):
        finding = rows.coordinates(call, call.coverage())
        raise errors.BoxesValueError(_words(finding, library, "crash the process"))


def _words(finding: Finding | None, library: str, what: str) -> str:
    code, evidence = (finding.code, finding.evidence) if finding else ("RA205", "")
    return f"{code}: stopped by roialign: {evidence} {library} would {what} in this call."
