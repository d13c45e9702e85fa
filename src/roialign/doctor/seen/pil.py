"""PIL's function that opens files, and its methods that resize, crop, turn and copy images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from roialign.doctor.seen.imports import at_import

_METHODS = ("resize", "crop", "transpose", "transform", "convert", "copy")

Show = Callable[[str, Any, Any, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def watched(show: Show) -> Iterator[None]:
    """Give `show` what each method makes, whether PIL is imported already or will be."""
    replaced: list[tuple[Any, str, Any, Any]] = []

    def watch(module: ModuleType) -> None:
        watched = [(module.Image, name, _watched_method) for name in _METHODS]
        for owner, name, stand_in_for in [*watched, (module, "open", _watched_open)]:
            original = owner.__dict__[name]
            stand_in = stand_in_for(name, original, show)
            replaced.append((owner, name, original, stand_in))
            setattr(owner, name, stand_in)

    try:
        with at_import("PIL.Image", watch):
            yield
    finally:
        for owner, name, original, stand_in in replaced:
            if owner.__dict__.get(name) is stand_in:  # unless somebody else put something there meanwhile
                setattr(owner, name, original)


def _watched_method(name: str, original: Any, show: Show) -> Any:
    @functools.wraps(original)
    def watched_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        show(name, output, self, args, kwargs)
        return output

    return watched_method


def _watched_open(name: str, original: Any, show: Show) -> Any:
    @functools.wraps(original)
    def watched_open(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        show(name, output, None, (), {})
        return output

    return watched_open
