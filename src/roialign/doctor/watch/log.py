"""The diagnoses of a watched program, of which millions may be made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from roialign.doctor.findings import Diagnosis, Report

KEPT = 100
"""Diagnoses kept for each line of code and outcome; of those beyond, only the number."""

_Outcome = tuple[str | None, tuple[str, ...]]


class CallLog:
    """Takes diagnoses from any thread; its memory is bounded by the number of lines that make calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Diagnosis] = []
        self._made: dict[_Outcome, tuple[int, int]] = {}

    def add(self, diagnosis: Diagnosis) -> None:
        """Keep the diagnosis, or count it with the last that was kept of its line and outcome."""
        outcome = (diagnosis.call_site, tuple(finding.code for finding in diagnosis.findings))
        with self._lock:
            number, place = self._made.get(outcome, (0, 0))
            if number < KEPT:
                self._made[outcome] = (number + 1, len(self._kept))
                self._kept.append(diagnosis)
            else:
                last = self._kept[place]
                self._kept[place] = replace(last, times=last.times + 1)

    def all(self) -> list[Diagnosis]:
        """Those kept so far."""
        with self._lock:
            return list(self._kept)


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
