"""The packages of the extras `extraction` and `ray`, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

_PACKAGES = {"yaml": "pyyaml", "ray": "'ray[data]'"}


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
        package = _PACKAGES.get(top, top)
        raise ImportError(f"this needs {top}, which is not installed; type: pip install {package}", name=top) from error
