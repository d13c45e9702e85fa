"""The backends of the operators: how each is loaded and why not, on which devices, and which operators.

The reference is registered for every device; a backend that loads takes its operators over.
"""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass
from typing import cast

import torch

from roialign.ops import native, registered
from roialign.ops import triton as gpu
from roialign.ops.notice import calling_frame
from roialign.ops.registered import pooling

REFERENCE = "reference"


@dataclass(frozen=True)
class Backend:
    """Kernels for one type of device."""

    name: str
    device_type: str
    key: str
    """The dispatch key that its kernels are registered for."""
    why_not: str | None
    """Why it is not used; None where it is."""
    advice: str
    """What makes it usable."""

    def serves(self, op: str) -> bool:
        """Whether it has a kernel for a registered operator or gradient."""
        return self.why_not is None and torch._C._dispatch_has_kernel_for_dispatch_key(f"roialign::{op}", self.key)


BACKENDS = (
    Backend(
        "C++",
        "cpu",
        "CPU",
        native.why_not,
        "Reinstall with pip install --no-build-isolation, with torch and a C++20 compiler available.",
    ),
    Backend(
        "Triton",
        "cuda",
        "CUDA",
        gpu.load(),
        "ROIALIGN_TRITON=1 in the environment selects them, if Triton is installed.",
    ),
)
"""All that are known, at most one for each type of device."""

_slow: dict[str, Backend] = {one.device_type: one for one in BACKENDS if one.why_not is not None}
"""By type of device those that should be used and are not, until it was said."""


def cpu_capability() -> str | None:
    """The instruction set that the C++ kernels use: "avx512", "avx2" or "baseline"; None where they are not used.

    The best that the processor can run. The environment variable ROIALIGN_CPU_CAPABILITY, read when the kernels
    are first used, can name a lesser one.
    """
    if of_device("cpu") is None:
        return None
    ask = ctypes.CDLL(str(native.CPU_LIBRARY)).roialign_cpu_capability
    ask.restype = ctypes.c_char_p
    return cast(bytes, ask()).decode()


def _say_once_if_slow(device_type: str) -> None:
    """Say, the first time that it matters, that the reference is used instead of kernels."""
    backend = _slow.pop(device_type, None)
    if backend is not None:
        frame = calling_frame(("roialign", "torch"))
        warnings.warn_explicit(
            f"{backend.why_not}, so the slower PyTorch reference is used. {backend.advice} `roialign env` shows more.",
            UserWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
        )


pooling.told.append(_say_once_if_slow)


def of_device(device_type: str) -> Backend | None:
    """The backend that is used on this type of device, if any."""
    return next((one for one in BACKENDS if one.device_type == device_type and one.why_not is None), None)


def serving(op: str, device_type: str) -> str:
    """The name of what `op` uses on this type of device: a backend's, or "reference"."""
    backend = of_device(device_type)
    return backend.name if backend is not None and backend.serves(op) else REFERENCE


def names() -> list[str]:
    """The names of the registered operators and gradients."""
    return list(registered.SCHEMAS)
