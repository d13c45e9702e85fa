"""The library of C++ kernels, loaded before the operators are registered, because it defines those it implements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

CPU_LIBRARY = Path(__file__).parent / "cpu" / "_kernels.so"


def library_path() -> Path:
    """The file with the C++ kernels, with which saved models run where roialign is not installed.

    `torch.ops.load_library(path)` in Python, or `dlopen` in C++, registers the operators with torch: exported programs,
    AOTInductor's packages and TorchScript's archives find them then.

    Raises:
        FileNotFoundError: if the kernels were not built.

    Example:
        >>> library_path().name
        '_kernels.so'
    """
    if not CPU_LIBRARY.exists():
        raise FileNotFoundError(
            f"expected the C++ kernels at {CPU_LIBRARY}; they were not built. Reinstall with pip install "
            "--no-build-isolation, with torch and a C++20 compiler available."
        )
    return CPU_LIBRARY


def load() -> str | None:
    """Load the C++ kernels; the reason why they cannot be used, or None."""
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
