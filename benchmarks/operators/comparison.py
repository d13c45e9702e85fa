"""What the benchmarks of the operators share: the ways to pool the same thing, verified, then timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from tests.ops import tolerances
from torch import Tensor

from benchmarks.implementations import BACKWARD, FORWARD, ROIALIGN, Call
from benchmarks.results import OperatorRow
from benchmarks.timing import Budget, Times, time_in_turn

TRAINING = "forward, to be differentiated"
REFERENCE = "reference"
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """The ways to pool from `features`: roialign's, and what it is held against."""

    workload: str
    description: str
    options: str
    layout: str
    features: Tensor
    pools: dict[str, Pool]
    alike: tuple[str, ...]  # of the pools, those whose numbers are to be roialign's
    passes: tuple[str, ...] = (FORWARD, BACKWARD)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.workload, self.options, self.layout)))

    def calls(self, pass_: str) -> dict[str, Call]:
        """What is timed; the gradient is that to the features, with the forward done here, once."""

        def call(pool: Pool) -> Call:
            if pass_ == FORWARD:
                return lambda: [pool(self.features)]
            leaf = self.features.detach().requires_grad_()
            if pass_ == TRAINING:
                return lambda: [pool(leaf)]
            output = pool(leaf)
            upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
            return lambda: torch.autograd.grad(output, leaf, upstream, retain_graph=True)

        return {name: call(pool) for name, pool in self.pools.items()}

    def verify(self) -> None:
        """End the program unless the numbers are alike."""
        compared = product((FORWARD, BACKWARD), self.alike)
        for pass_, name in ((pass_, name) for pass_, name in compared if pass_ in self.passes):
            calls = self.calls(pass_)
            (ours,), (theirs,) = calls[ROIALIGN](), calls[name]()
            require_alike(f"{pass_} of {self}", name, ours, theirs)


def require_alike(what: str, name: str, ours: Tensor, theirs: Tensor) -> None:
    """End the program, and say what differs, unless both are within the tolerance."""
    try:
        tolerances.assert_close(ours, theirs, theirs)
    except AssertionError as error:
        raise SystemExit(f"roialign and {name} differ, so nothing is timed. {what}: {error}") from error


class _ByReference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, pool: Pool, differentiate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(features)
        ctx.differentiate = differentiate
        return pool(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.differentiate(grad, *ctx.saved_tensors), None, None


def by_reference(pool: Pool, differentiate: Callable[[Tensor, Tensor], Tensor]) -> Pool:
    """The reference with its own backward, of the output's gradient and the features, instead of autograd's."""
    return lambda features: _ByReference.apply(features, pool, differentiate)


def measure(operator: str, comparison: Comparison, budget: Budget) -> Iterator[OperatorRow]:
    """Verify, then time all passes on all threads, and those in NCHW, but for the reference's, on one as well."""
    comparison.verify()
    threads = torch.get_num_threads()
    with_one = comparison.layout == "NCHW" and REFERENCE not in comparison.pools
    for pass_, count in product(comparison.passes, sorted({threads, 1} if with_one else {threads}, reverse=True)):
        torch.set_num_threads(count)
        times = time_in_turn(comparison.calls(pass_), budget)
        torch.set_num_threads(threads)
        print(f"{operator}, {pass_} of {comparison}, {count} threads: {_summary(times)}", flush=True)
        options = (comparison.options, comparison.layout, count)
        for name, own in times.items():
            yield OperatorRow(operator, comparison.workload, comparison.description, pass_, *options, name, own)


def speedup(ours: Times, theirs: Times) -> str:
    """How many times as fast as the other roialign is."""
    ratio = theirs.median_ms / ours.median_ms
    return f"{ratio:.{2 if ratio < 1 else 1 if ratio < 100 else 0}f}x"


def _summary(times: dict[str, Times]) -> str:
    ours = times[ROIALIGN]
    others = [f"{speedup(ours, own)} to {name}" for name, own in times.items() if name != ROIALIGN]
    return f"{ours.median_ms:.3g} ms, {', '.join(others)}"
