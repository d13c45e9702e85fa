"""What the Triton kernels are launched with, recorded without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.compiler import ASTSource

from roialign.ops.triton import functions, operators
from roialign.ops.triton.launch import Launcher
from roialign.ops.triton.maps import Rule
from tests.ops.triton_calls import Call, results

TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
TYPE_NAMES |= {torch.int32: "i32", torch.int64: "i64", torch.bool: "i1"}


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments that it is launched with."""

    kernel: Any
    form: Any
    arguments: tuple[Any, ...]
    num_warps: int

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__).removesuffix("_kernel")

    def specialization(self) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
        """Types, constants and alignments that Triton compiles for. In tuples it always looks at the values."""
        signature: dict[str, Any] = {}
        constants: dict[Any, Any] = {}
        alignments: dict[Any, Any] = {}
        for index, (parameter, argument) in enumerate(zip(self.kernel.params, self.arguments, strict=True)):
            if parameter.is_constexpr:
                signature[parameter.name], constants[(index,)] = "constexpr", argument
            else:
                looks = not parameter.do_not_specialize
                signature[parameter.name] = _type_of(argument, (index,), looks, constants, alignments)
        return signature, constants, alignments

    def source(self) -> ASTSource:
        return ASTSource(self.kernel, *self.specialization())


def _type_of(argument: Any, path: tuple[int, ...], looks: bool, constants: Any, alignments: Any) -> Any:
    if isinstance(argument, tuple):
        return tuple(_type_of(one, (*path, i), True, constants, alignments) for i, one in enumerate(argument))
    if argument is None or (looks and not isinstance(argument, Tensor) and argument == 1):
        constants[path] = argument
        return "constexpr"
    if isinstance(argument, Tensor) or (looks and argument % 16 == 0):
        alignments[path] = [["tt.divisibility", 16]]
    if isinstance(argument, Tensor):
        return "*" + TYPE_NAMES[argument.dtype]
    return "i32" if -(1 << 31) <= argument < 1 << 31 else "i64"


def record(
    sizes_hw: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    images: int = 1,
    channels: int = 256,
    boxes: int = 1000,
    size_hw: tuple[int, int] = (7, 7),
    ratio: int = 2,
    scale: float = 0.25,
) -> list[Launch]:
    """All that a forward pass and both gradients launch, of one map or of several."""
    maps = [torch.empty(images, channels, *size, dtype=dtype, device="meta") for size in sizes_hw]
    maps = [one.contiguous(memory_format=layout) for one in maps]
    rois = _rois(boxes, 5, dtype)
    cells = tuple(number for one in range(len(maps)) for number in (scale / 2**one, 0.0) * 2)
    levels = torch.empty(boxes, dtype=torch.int64, device="meta") if len(maps) > 1 else None
    rule = Rule(levels, cells, ratio, True)
    with _recording() as launches:
        output, _ = functions.pool(maps, rois, rule, size_hw)
        functions.scatter(output, rois, rule, images, [h for h, _ in sizes_hw], [w for _, w in sizes_hw])
        functions.correlate(output, maps, rois, rule)
    return launches


def record_call(
    call: Call,
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    images: int = 1,
    channels: int = 256,
    boxes: int = 1000,
) -> list[Launch]:
    """The same of another operator; `channels` are those of the output."""
    operator = call.operator
    own = prod(call.bins) if operator.definition.own_channels else 1
    features = torch.empty(images, *call.cells, channels * own, dtype=dtype, device="meta").movedim(-1, 1)
    features = features if channels_last else features.contiguous()
    rois = _rois(boxes, 1 + operator.form.columns, dtype)
    masks = (torch.empty(boxes, *call.mask_hw, dtype=call.mask_dtype, device="meta"),) if operator.beside else ()
    grad = torch.empty(boxes, channels, *call.bins, dtype=dtype, device="meta")
    with _recording() as launches:
        results(SimpleNamespace(**operators.IMPLEMENTATIONS), call.name, features, (rois, *masks), grad, call.options)
    return launches


def _rois(boxes: int, columns: int, dtype: torch.dtype) -> Tensor:
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.empty(boxes, columns, dtype=kind, device="meta")


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    launches: list[Launch] = []

    def keep(self: Launcher, programs: int, form: Any, *arguments: Any) -> None:
        launches.append(Launch(self._kernel, form, arguments, self._num_warps))

    with mock.patch.object(Launcher, "__call__", keep):
        yield launches
