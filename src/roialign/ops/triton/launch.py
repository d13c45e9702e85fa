"""How kernels are launched: with what was compiled for arguments of the same form."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

INTEGER_LIMIT = 1 << 31


class Launcher:
    """Launches one kernel. Its arguments' form is looked up here once, for Triton takes long to find it again."""

    def __init__(self, kernel: Any, num_warps: int) -> None:
        self._kernel = kernel
        self._num_warps = num_warps
        self._compiled: dict[Any, Any] = {}

    def __call__(self, programs: int, form: tuple[Any, ...], *arguments: Any) -> None:
        """Launch so many programs. All that Triton compiles for has to be in `form`."""
        if programs == 0:
            return
        grid, compiled = (programs, 1, 1), self._compiled.get(form)
        if compiled is None:
            # separate roundings of products and sums: see kernels/axis.py
            compiled = self._kernel[grid](*arguments, num_warps=self._num_warps, enable_fp_fusion=False)
            self._compiled[form] = compiled
        else:
            compiled[grid](*arguments)


@lru_cache(maxsize=4096)
def form_of_numbers(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """What Triton compiles for of these numbers: whether they are 1, multiples of 16 and of 64 bits."""
    return tuple((one == 1) + 2 * (one % 16 == 0) + 4 * (not -INTEGER_LIMIT <= one < INTEGER_LIMIT) for one in numbers)


def form_of_tensors(*tensors: Tensor) -> tuple[Any, ...]:
    """What Triton compiles for of these tensors: their types and whether they begin at a multiple of 16 bytes."""
    return tuple((one.dtype, one.data_ptr() % 16 == 0) for one in tensors)


def form_of_strided(tensor: Tensor) -> tuple[Any, ...]:
    """What Triton compiles for of a tensor that comes with its strides."""
    return form_of_tensors(tensor), form_of_numbers(tensor.stride())


def on_device_of(tensor: Tensor) -> Any:
    """Makes the tensor's device the current one while the context is open."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def index_type(is_wide: bool) -> Any:
    """Of what kernels count elements with."""
    return tl.int64 if is_wide else tl.int32


def blocks_of(count: int, block: int) -> int:
    return -(-count // block)


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`, and 1."""
    return 1 << max(count - 1, 0).bit_length()
