"""Times functions in turn, so that what the machine does meanwhile meets them all."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from .implementations import Call

_LEAST_TURN_S = 0.02  # shorter calls are repeated within a turn, and their mean counts
# While one library computes on one thread, the other threads sleep, and the system may need some tenths of a second to
# spread them over the processors again once they are woken. Idle threads of another library look for work meanwhile.
# Every function is therefore called for so long before it is timed; those that take long by themselves need no more.
_SETTLING_S = 0.3


@dataclass(frozen=True)
class Budget:
    """How long to go on: until both are reached."""

    least_repeats: int = 5
    seconds: float = 3.0


@dataclass(frozen=True)
class Times:
    """The median and the quartiles of so many repeats."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    repeats: int


def time_in_turn(
    calls: dict[str, Call],
    budget: Budget,
    within: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> dict[str, Times]:
    """The times of all functions, called in turn after each was called to warm up, each turn `within` its context."""
    calls_per_turn, times_ms = dict[str, int](), dict[str, list[float]]()
    for name, call in calls.items():
        with within(name):
            calls_per_turn[name] = _calls_per_turn(call)
            times_ms[name] = [1000 * mean_s(call, 1)]
    begin = time.perf_counter()
    repeats = 0
    gc.disable()
    try:
        while repeats < budget.least_repeats or time.perf_counter() - begin < budget.seconds:
            for name, call in calls.items():
                with within(name):
                    if times_ms[name][-1] < 1000 * _SETTLING_S:
                        _settle(call)
                    times_ms[name].append(1000 * mean_s(call, calls_per_turn[name]))
            repeats += 1
    finally:
        gc.enable()
    return {name: _summary(times[1:]) for name, times in times_ms.items()}


def _calls_per_turn(call: Call) -> int:
    """How many calls make a turn long enough to be timed well."""
    seconds = mean_s(call, 1)
    if seconds >= _LEAST_TURN_S:
        return 1
    return math.ceil(_LEAST_TURN_S / mean_s(call, 5))


def _settle(call: Call) -> None:
    """Call until the threads of others are asleep and the function's own are awake and spread."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < _SETTLING_S:
        call()


def mean_s(call: Call, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def _summary(times_ms: list[float]) -> Times:
    q1_ms, median_ms, q3_ms = statistics.quantiles(times_ms, n=4, method="inclusive")
    return Times(median_ms, q1_ms, q3_ms, len(times_ms))
