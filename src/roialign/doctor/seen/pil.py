"""PIL's methods that resize, crop and flip images, watched where PIL is imported already."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_METHODS = ("resize", "crop", "transpose", "transform")
_originals: dict[str, Any] = {}
_stand_ins: dict[str, Any] = {}

Show = Callable[[str, Any, Any, tuple[Any, ...], dict[str, Any]], None]


def begin(show: Show) -> None:
    """Put a stand-in before each method that gives `show` what it made."""
    module = sys.modules.get("PIL.Image")
    if module is None:
        return
    for name in _METHODS:
        original = module.Image.__dict__[name]
        if name not in _stand_ins or _stand_ins[name].__wrapped__ is not original:
            _stand_ins[name] = _watched(name, original, show)
        _originals[name] = original
        setattr(module.Image, name, _stand_ins[name])


def end() -> None:
    """Put the methods back."""
    module: Any = sys.modules.get("PIL.Image")
    for name, original in _originals.items():
        if module.Image.__dict__.get(name) is _stand_ins[name]:
            setattr(module.Image, name, original)
    _originals.clear()


def _watched(name: str, original: Any, show: Show) -> Any:
    @functools.wraps(original)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        show(name, output, self, args, kwargs)
        return output

    return watched
