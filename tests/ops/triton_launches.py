"""What the Triton kernels are launched with, recorded without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from triton.compiler import ASTSource

from roialign.ops.operators import OPERATORS, ROI_POOL
from roialign.ops.triton import functions, pooling
from roialign.ops.triton.functions import Rule
from roialign.ops.triton.launch import Launcher

TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
TYPE_NAMES |= {torch.int32: "i32", torch.int64: "i64"}


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


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    """Launches in this context are recorded instead."""
    launches: list[Launch] = []

    def keep(self: Launcher, programs: int, form: Any, *arguments: Any) -> None:
        launches.append(Launch(self._kernel, form, arguments, self._num_warps))

    with mock.patch.object(Launcher, "__call__", keep):
        yield launches


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
    rois = torch.empty(boxes, 5, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device="meta")
    cells = tuple(number for one in range(len(maps)) for number in (scale / 2**one, 0.0) * 2)
    levels = torch.empty(boxes, dtype=torch.int64, device="meta") if len(maps) > 1 else None
    rule = Rule(levels, cells, ratio, True)
    with _recording() as launches:
        output, _ = functions.pool(maps, rois, rule, size_hw)
        functions.scatter(output, rois, rule, images, [h for h, _ in sizes_hw], [w for _, w in sizes_hw])
        functions.correlate(output, maps, rois, rule)
    return launches


class PoolingCall(NamedTuple):
    """A call of an operator of the table, or of `roi_pool`."""

    name: str
    options: tuple[Any, ...]
    cells: tuple[int, ...] = (50, 84)
    bins: tuple[int, ...] = (7, 7)


POOLING = {
    "ps_roi_align, ratio 2": PoolingCall("ps_roi_align", (0.0625, 2, False)),
    "ps_roi_align, adaptive": PoolingCall("ps_roi_align", (0.0625, 0, True)),
    "ps_roi_pool": PoolingCall("ps_roi_pool", (0.0625, False, True)),
    "prroi_pool": PoolingCall("prroi_pool", (0.0625,)),
    "roi_align_3d, ratio 2": PoolingCall("roi_align_3d", (0.25, 0.25, 0.25, 2, True), (16, 32, 32), (4, 4, 4)),
    "roi_align_3d, adaptive": PoolingCall("roi_align_3d", (0.25, 0.25, 0.25, 0, False), (16, 32, 32), (4, 4, 4)),
    "roi_pool": PoolingCall("roi_pool", (0.0625, True)),
}


def record_pooling(
    call: PoolingCall,
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    images: int = 1,
    channels: int = 256,
    boxes: int = 1000,
) -> list[Launch]:
    """As `record`; `channels` are those of the output."""
    (name, options, cells, bins), run = call, pooling.IMPLEMENTATIONS
    operator = OPERATORS.get(name, ROI_POOL)
    own = prod(bins) if operator.definition.own_channels else 1
    features = torch.empty(images, *cells, channels * own, dtype=dtype, device="meta").movedim(-1, 1)
    features = features if channels_last else features.contiguous()
    of_boxes = torch.float64 if dtype == torch.float64 else torch.float32
    rois = torch.empty(boxes, 1 + 2 * len(bins), dtype=of_boxes, device="meta")
    with _recording() as launches:
        if operator is ROI_POOL:
            output, _, maxima = run[name](features, rois, *bins, *options, True)
            run[operator.gradient](output, maxima, rois, images, *cells)
            return launches
        output, _ = run[name](features, rois, *bins, *options)
        of_gradient = operator.to_gradient(*options)
        run[operator.gradient](output, rois, images, *cells, *of_gradient)
        if operator.moves_boxes:
            run[operator.gradient_to_boxes](output, features, rois, *of_gradient)
    return launches
