"""PIL's methods that resize, crop and flip images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from roialign.doctor.seen.imports import at_import

_METHODS = ("resize", "crop", "transpose", "transform")

Show = Callable[[str, Any, Any, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def watched(show: Show) -> Iterator[None]:
    """Give `show` what each method makes, whether PIL is imported already or will be."""
    replaced: list[tuple[Any, str, Any, Any]] = []

    def watch(module: ModuleType) -> None:
        for name in _METHODS:
            original = module.Image.__dict__[name]
            stand_in = _watched_method(name, original, show)
            replaced.append((module.Image, name, original, stand_in))
            setattr(module.Image, name, stand_in)

    try:
        with at_import("PIL.Image", watch):
            yield
    finally:
        for kind, name, original, stand_in in replaced:
            if kind.__dict__.get(name) is stand_in:  # unless somebody else put something there meanwhile
                setattr(kind, name, original)


def _watched_method(name: str, original: Any, show: Show) -> Any:
    @functools.wraps(original)
    def watched_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        show(name, output, self, args, kwargs)
        return output

    return watched_method
