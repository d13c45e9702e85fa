"""What a report is made into: a small program that does what the person did, and what is right to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

Kind = Literal["fault", "unseen", "healthy"]


class Run(Protocol):
    """Does what was reported, or what would have been right, and gives what was pooled.

    NaN in what is right stands for values that do not matter. The last return statement of a fault is its RoI call,
    which is made anew where a fix is pasted before it.
    """

    def __call__(self, right: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class Program:
    """Made outside the watch, as a user's is: the network with its weights, and what is done with it."""

    model: nn.Module
    run: Run
    pooler: Any = None
    """A MultiScaleRoIAlign that keeps the scales of its first batch, to be reset before each run."""
    gradients: bool = False
    comparable: bool = True
    """Whether a fix of the RoI call could give what the right program gives."""


@dataclass(frozen=True)
class Reported:
    """One report. What is said first is right where its code begins with one of `codes` and its words match `says`."""

    name: str
    """Repository and number: "mmdetection#1364"; of programs without a report, what they stand for."""
    what: str
    """What the person did, in a few words."""
    kind: Kind
    build: Callable[[], Program]
    codes: tuple[str, ...] = ()
    """Regular expressions, matched from the beginning."""
    says: str = ""
    """A regular expression, searched for in title, evidence, line to paste and what would decide."""
    right: str = ""
    """What the right call is."""

    @property
    def title(self) -> str:
        return f"{self.name}: {self.what}"


Build = Callable[[], Program]


def fault(name: str, what: str, *codes: str, says: str = "", right: str) -> Callable[[Build], Reported]:
    """A program whose RoIs are wrong."""
    return lambda build: Reported(name, what, "fault", build, codes, says, right)


def unseen(name: str, what: str, right: str) -> Callable[[Build], Reported]:
    """A program whose RoIs are wrong, or are thought to be, where nothing that a doctor sees shows it."""
    return lambda build: Reported(name, what, "unseen", build, right=right)


def healthy(name: str, what: str) -> Callable[[Build], Reported]:
    """A program that is right, though it may look odd."""
    return lambda build: Reported(name, what, "healthy", build)
