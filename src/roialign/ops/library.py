"""What torch.library knows of the operators, and which backend serves each.

The reference is registered for every backend; a kernel library that loads takes its own over.
"""

from __future__ import annotations

import ctypes
import warnings
from typing import cast

import torch
from torch import Tensor

from roialign.ops import registered
from roialign.ops.native import CPU_LIBRARY as CPU_LIBRARY
from roialign.ops.native import why_no_cpu_kernels as why_no_cpu_kernels
from roialign.ops.notice import calling_frame


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
    """Which implementation serves `op` on this type of device: "C++" or "reference"."""
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    key = "CPU" if device_type == "cpu" else device_type.upper()
    return "C++" if kernel(f"roialign::{op}", key) and key == "CPU" else "reference"


def names() -> list[str]:
    """The names of the registered operators."""
    return list(registered.SCHEMAS)
