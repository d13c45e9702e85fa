"""The cells of a notebook, by the names of files that IPython gives to their code."""

from __future__ import annotations

import linecache
import re
import sys
from typing import Any

_OLD_NAME = re.compile(r"<ipython-input-(\d+)-")


def cell(path: str) -> str | None:
    """What IPython's own tracebacks call the cell whose code has this file name; None for any other file."""
    names = getattr(getattr(_shell(), "compile", None), "_filename_map", None)
    number = names.get(path) if isinstance(names, dict) else None
    old = _OLD_NAME.match(path)
    if number is None and old:
        number = old[1]
    return None if number is None else f"Cell In[{number}]"


def run() -> int | None:
    """The number of the cell that runs; None outside of IPython."""
    number = getattr(_shell(), "execution_count", None)
    return number if isinstance(number, int) else None


def source_file(path: str) -> str:
    """The file name to warn with: a cell by its name, from which Python finds the line's text, too."""
    name = cell(path)
    if name is None:
        return path
    if path in linecache.cache:
        linecache.cache[name] = linecache.cache[path]
    return name


def _shell() -> Any:
    """IPython's shell, without importing IPython."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find() if callable(find) else None
