"""The places at which RoI calls pass, in whichever library: while someone looks, each shows its calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor

from roialign.doctor.evidence import Caller
from roialign.doctor.findings import Diagnosis
from roialign.doctor.watch.libraries import compiled, mmcv, torchvision
from roialign.doctor.watch.libraries.shows import Shows
from roialign.ops import calls
from roialign.ops.calls import RoICall
from roialign.regions.pool import RegionsCall


class Looker(Protocol):
    """Who looks at calls."""

    def see(self, call: RoICall | RegionsCall, caller: Caller | None) -> None:
        """Look at a call that is about to be made."""

    def refuse(self, diagnosis: Diagnosis) -> None:
        """Look at a call whose arguments are none that roialign would take."""

    def pooled(self, output: Tensor) -> None:
        """Look at what an operator made."""


_lock = threading.Lock()
_lookers: tuple[Looker, ...] = ()
_open = ExitStack()
_kernels: compiled.Kernels | None = None
"""Those that are put before others while someone looks."""


@contextmanager
def showing_calls_to(looker: Looker) -> Iterator[None]:
    """Show `looker` every RoI call of this process until the block ends.

    The libraries are touched when the first looker comes and left as they were when the last one goes, whatever the
    order in which they do.
    """
    global _lookers
    with _lock:
        if not _lookers:
            _begin()
        _lookers = (*_lookers, looker)
    try:
        yield
    finally:
        with _lock:
            _lookers = tuple(one for one in _lookers if one is not looker)
            if not _lookers:
                _end()


def lookers() -> int:
    """How many look at the moment."""
    return len(_lookers)


@contextmanager
def behind_the_lookers() -> Iterator[None]:
    """Put kernels into the libraries, or take them out, without hiding calls from those who look."""
    with _lock:
        if _kernels is None:
            yield
            return
        _kernels.remove()
        try:
            yield
        finally:
            _kernels.put()


def _begin() -> None:
    global _kernels
    shows = Shows(lambda: _lookers)
    calls.observers.append(shows.own_call)
    _open.callback(_remove, calls.observers, shows.own_call)
    _kernels = compiled.Kernels(shows)
    _kernels.put()
    _open.callback(_kernels.remove)
    _open.enter_context(torchvision.watched(shows, _kernels.put_before_torchvisions))
    _open.enter_context(mmcv.watched(shows))


def _end() -> None:
    global _kernels
    _open.close()
    _kernels = None


def _remove(values: list[Any], value: Any) -> None:
    if value in values:
        values.remove(value)
