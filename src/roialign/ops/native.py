"""The library of C++ kernels: loaded before the operators are registered, for it defines those that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

CPU_LIBRARY = Path(__file__).parent / "cpu" / "_kernels.so"


def load() -> str | None:
    """Load the C++ kernels; the reason why they do not serve, or None."""
    if hasattr(torch.ops.roialign, "roi_align"):
        return None  # the program has loaded it already, or a copy
    if not CPU_LIBRARY.exists():
        return "the C++ kernels were not built"
    try:
        torch.ops.load_library(CPU_LIBRARY)
    except OSError as error:
        return f"the C++ kernels could not be loaded: {error}"
    return None


why_not = load()


def define(schemas: Mapping[str, str]) -> None:
    """Define those operators that no loaded library has defined."""
    for name, schema in schemas.items():
        if not hasattr(torch.ops.roialign, name):
            torch.library.define(f"roialign::{name}", schema)
