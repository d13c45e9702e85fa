"""The packages of the extras `extraction` and `ray`, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

_PACKAGES = {"yaml": "pyyaml"}
_EXTRAS = {"ray": "ray"}  # by package; all others are of `extraction`


def needed(module: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: if its package is not installed, with what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name != top:
            raise
        package, extra = _PACKAGES.get(top, top), _EXTRAS.get(top, "extraction")
        raise ImportError(f"{package} is not installed: pip install 'roialign[{extra}]'", name=top) from error
