"""What torch.library knows of the operators, and which backend serves each.

The reference is registered for every backend; a kernel library that loads takes its own over.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from roialign.ops import registered
from roialign.ops import triton as gpu
from roialign.ops.notice import calling_frame

CPU_LIBRARY = Path(__file__).parent / "cpu" / "_kernels.so"


def _load_cpu_kernels() -> str | None:
    """Load the C++ kernels; the reason why they do not serve, or None."""
    if not CPU_LIBRARY.exists():
        return "the C++ kernels were not built"
    try:
        torch.ops.load_library(CPU_LIBRARY)
    except OSError as error:
        return f"the C++ kernels could not be loaded: {error}"
    return None


why_no_cpu_kernels = _load_cpu_kernels()
why_no_gpu_kernels = gpu.load()


def cpu_capability() -> str | None:
    """The instruction set that the C++ kernels use: "avx512", "avx2" or "baseline"; None where they do not serve.

    The best that the processor can run. The environment variable ROIALIGN_CPU_CAPABILITY, read when the kernels
    are first used, can name a lesser one.
    """
    if why_no_cpu_kernels:
        return None
    ask = ctypes.CDLL(str(CPU_LIBRARY)).roialign_cpu_capability
    ask.restype = ctypes.c_char_p
    return cast(bytes, ask()).decode()


_said_slow = False


def say_once_if_slow(input: Tensor) -> None:
    """Say, the first time that it matters, that the reference serves where the C++ kernels should."""
    global _said_slow
    if why_no_cpu_kernels and input.is_cpu and not _said_slow:
        _said_slow = True
        frame = calling_frame(("roialign", "torch"))
        warnings.warn_explicit(
            f"{why_no_cpu_kernels}, so the slower reference in PyTorch serves. Install again with "
            "pip install --no-build-isolation, torch and a C++20 compiler at hand. `roialign env` shows more.",
            UserWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
        )


def backend(op: str, device_type: str) -> str:
    """Which implementation serves `op` on this type of device: "C++", "Triton" or "reference"."""
    kernels = {"cpu": "C++", "cuda": "Triton"}
    serves = torch._C._dispatch_has_kernel_for_dispatch_key(f"roialign::{op}", device_type.upper())
    return kernels.get(device_type, "reference") if serves else "reference"


def names() -> list[str]:
    """The names of the registered operators."""
    return list(registered.SCHEMAS)
