"""The diagnoses of a watched program, of which millions may be made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from roialign.doctor.findings import Diagnosis, Report
from roialign.ops.validate import is_dense

KEPT = 100
"""Diagnoses kept for each line of code and outcome; of those beyond, only the number."""
KEPT_BYTES = 64 << 20
"""Beyond so many, only the first diagnosis of each line and outcome is kept."""
PICTURE_BYTES = 1 << 30
"""Beyond so many of feature maps and images, which are kept for pictures, no further ones are."""

_Outcome = tuple[str | None, tuple[str, ...]]


class CallLog:
    """Takes diagnoses from any thread; its memory is bounded, but for a little of each line that makes calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Diagnosis] = []
        self._made: dict[_Outcome, tuple[int, int]] = {}
        self._bytes = self._picture_bytes = 0

    def add(self, diagnosis: Diagnosis) -> None:
        """Keep the diagnosis, or count it with the last that was kept of its line and outcome."""
        outcome = (diagnosis.call_site, tuple(finding.code for finding in diagnosis.findings))
        with self._lock:
            number, place = self._made.get(outcome, (0, 0))
            if number == 0 or (number < KEPT and self._bytes < KEPT_BYTES):
                self._made[outcome] = (number + 1, len(self._kept))
                self._kept.append(self._within_bounds(diagnosis))
            else:
                last = self._kept[place]
                self._kept[place] = replace(last, times=last.times + diagnosis.times)

    def _within_bounds(self, diagnosis: Diagnosis) -> Diagnosis:
        """The diagnosis, without its pictures where there is no room for them, once its memory is counted."""
        bare = diagnosis.without_features()
        rows, pictures = _bytes_of(bare), _bytes_of(diagnosis)
        self._bytes += rows
        if pictures > rows and self._picture_bytes + pictures - rows > PICTURE_BYTES:
            return bare
        self._picture_bytes += pictures - rows
        return diagnosis

    def all(self) -> list[Diagnosis]:
        """Those kept so far."""
        with self._lock:
            return list(self._kept)


def _bytes_of(diagnosis: Diagnosis) -> int:
    """The memory that a diagnosis keeps from being freed."""
    calls = [diagnosis.call, *(fix.call for finding in diagnosis.findings for fix in finding.fixes)]
    tensors = [diagnosis.coverage, diagnosis.image, *(one for call in calls if call for one in (call.input, call.rois))]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None and is_dense(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class LiveReport(Report):
    """A report that fills while a program is watched."""

    _log: CallLog
    _catch_up: Callable[[], None]
    stop: Callable[[], None]
    """Ends the watching, wherever it was begun."""

    def __init__(self, log: CallLog, catch_up: Callable[[], None], stop: Callable[[], None]) -> None:
        object.__setattr__(self, "_log", log)
        object.__setattr__(self, "_catch_up", catch_up)
        object.__setattr__(self, "stop", stop)

    @property
    def calls(self) -> list[Diagnosis]:
        """The diagnoses up to now; waits for those that a GPU still works for."""
        self._catch_up()
        return self._log.all()

    def __repr__(self) -> str:
        return f"Report(calls={self.calls!r})"

    _repr_pretty_ = Report._repr_pretty_  # which IPython would else find only after `__repr__`
