"""Times the ways to compute one thing in turn and prints medians, quartiles and how many times as long others take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .implementations import Call
from .timing import Budget, time_in_turn

BUDGET = Budget(least_repeats=3, seconds=1.0)


def report(title: str, calls: dict[str, Call]) -> None:
    """The first of `calls` is held against the others."""
    times = time_in_turn(calls, BUDGET)
    first, *others = times.items()
    print(f"{title}, {torch.get_num_threads()} threads")
    for name, own in (first, *others):
        ratio = own.median_ms / first[1].median_ms
        print(f"    {name:40} {own.median_ms:9.2f} ms ({own.q1_ms:.2f} to {own.q3_ms:.2f})   {ratio:.2f}", flush=True)


def gradient(output: Tensor, inputs: Sequence[Tensor]) -> Call:
    """A function that differentiates `output` once more at each call."""
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return lambda: torch.autograd.grad(output, inputs, upstream, retain_graph=True)
