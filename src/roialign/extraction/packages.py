"""Packages that extraction alone needs, imported when they are."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str) -> Any:
    """The module, or an ImportError that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = {"yaml": "pyyaml"}.get(module, module.partition(".")[0])
        raise ImportError(
            f"this needs {package}, which is not installed; type: pip install 'roialign[extraction]'"
        ) from error
