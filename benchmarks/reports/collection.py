"""All reports, and the part that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from .program import Kind, Reported

Part = Literal["given", "fitted", "kept", "fresh"]
"""The doctor was built with the given reports and tuned to them; fitted ones may be looked at and tuned to; kept ones
were first run unseen, when it was done; fresh ones were written after it was last tuned, and then run once."""

HIDDEN: tuple[Part, ...] = ("kept", "fresh")
"""Parts that are only counted: whoever works on the doctor should not look at them."""

_MODULES: dict[Part, tuple[str, ...]] = {
    "given": ("frames", "grids", "formats", "maps", "healthy", "healthy_more"),
    "fitted": ("fitted_frames", "fitted_maps"),
    "kept": ("kept_frames", "kept_maps"),
    "fresh": ("fresh_frames", "fresh_maps"),
}


@dataclass(frozen=True)
class Entry:
    """One report in its part."""

    reported: Reported
    part: Part
    id: str
    """The report's name, or, of a hidden one, its part and its number in it."""


def entries(*parts: Part) -> list[Entry]:
    """The reports of these parts, or of all: faults first, then what cannot be seen, then healthy programs."""
    kinds: tuple[Kind, ...] = ("fault", "unseen", "healthy")
    found = []
    for part in parts or tuple(_MODULES):
        modules = [import_module(f"{__package__}.{name}") for name in _MODULES[part]]
        reports = [one for module in modules for one in vars(module).values() if isinstance(one, Reported)]
        reports.sort(key=lambda one: kinds.index(one.kind))
        for number, reported in enumerate(reports, 1):
            found.append(Entry(reported, part, f"{part} {number}" if part in HIDDEN else reported.name))
    return found
