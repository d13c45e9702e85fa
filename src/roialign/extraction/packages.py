"""The packages of the extra `extraction`, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: if its package is not installed, with what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(f"{package} is not installed: pip install 'roialign[extraction]'", name=package) from error
