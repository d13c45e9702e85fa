"""Compiles the Triton kernels for GPUs that need not be here, and reports what they take of one.

`compile` compiles every kernel for sm_80, sm_90 and gfx942, fails on a spill, on a path that should read 16 bytes at
once and does not, and on a report that is not the committed one; with --write the report is written.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from roialign.ops.triton import functions
from roialign.ops.triton.functions import Rule
from roialign.ops.triton.launch import Launcher

REPORT = Path(__file__).parent.parent / "benchmarks/results/triton_resources.md"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
TYPE_NAMES |= {torch.int32: "i32", torch.int64: "i64"}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments that it is launched with."""

    kernel: Any
    arguments: tuple[Any, ...]
    num_warps: int

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__).removesuffix("_kernel")

    def source(self) -> ASTSource:
        """What Triton compiles for these arguments."""
        signature, constants, attributes = {}, {}, {}
        for index, (parameter, argument) in enumerate(zip(self.kernel.params, self.arguments, strict=True)):
            if parameter.is_constexpr:
                signature[parameter.name], constants[(index,)] = "constexpr", argument
                continue
            specialize = not parameter.do_not_specialize
            signature[parameter.name] = _type_of(argument, (index,), specialize, constants, attributes)
        return ASTSource(self.kernel, signature, constants, attributes)


def _type_of(argument: Any, path: tuple[int, ...], specialize: bool, constants: Any, attributes: Any) -> Any:
    if isinstance(argument, tuple):
        return tuple(_type_of(one, (*path, i), specialize, constants, attributes) for i, one in enumerate(argument))
    if argument is None or (specialize and not isinstance(argument, Tensor) and argument == 1):
        constants[path] = argument
        return "constexpr"
    if isinstance(argument, Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return "*" + TYPE_NAMES[argument.dtype]
    if specialize and argument % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(1 << 31) <= argument < 1 << 31 else "i64"


def launches(dtype: torch.dtype, channels_last: bool, ratio: int, levels: int) -> list[Launch]:
    """All that a forward pass and both gradients launch, on maps as detectors have them."""
    recorded: list[Launch] = []
    launcher = Launcher.__call__

    def record(self: Launcher, programs: int, form: Any, *arguments: Any) -> None:
        recorded.append(Launch(self._kernel, arguments, self._num_warps))

    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = [torch.empty(1, 256, 64 >> one, 96 >> one, dtype=dtype, device="meta") for one in range(levels)]
    maps = [one.contiguous(memory_format=layout) for one in maps]
    rois = torch.empty(1000, 5, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device="meta")
    cells = tuple(number for one in range(levels) for number in (0.25 / 2**one, 0.0) * 2)
    of_boxes = torch.empty(1000, dtype=torch.int64, device="meta") if levels > 1 else None
    rule = Rule(of_boxes, cells, ratio, True)
    Launcher.__call__ = record  # type: ignore[method-assign]
    try:
        output, _ = functions.pool(maps, rois, rule, (7, 7))
        functions.scatter(output, rois, rule, 1, [one.shape[2] for one in maps], [one.shape[3] for one in maps])
        functions.correlate(output, maps, rois, rule)
    finally:
        Launcher.__call__ = launcher  # type: ignore[method-assign]
    return recorded


def compile_all(target: str) -> Iterator[tuple[str, ...]]:
    """A row of the report for each kernel."""
    for dtype in DTYPES:
        for layout in ("channels_last", "NCHW"):
            for ratio, levels in ((2, 1), (0, 4)):
                for launch in launches(DTYPES[dtype], layout == "channels_last", ratio, levels):
                    options = {"num_warps": launch.num_warps, "enable_fp_fusion": False}
                    compiled = triton.compile(launch.source(), target=TARGETS[target], options=options)
                    sampling = "ratio 2, 1 map" if ratio else "adaptive, 4 maps"
                    yield launch.name, dtype, layout, sampling, target, *_resources(compiled, target)


def _resources(compiled: Any, target: str) -> tuple[str, ...]:
    """Registers, bytes of stack, bytes of shared memory, loads of 16 bytes."""
    shared = str(compiled.metadata.shared)
    if target.startswith("gfx"):
        listing = compiled.asm["amdgcn"]
        registers, spills = (re.search(rf"\.{key}:\s+(\d+)", listing) for key in ("vgpr_count", "vgpr_spill_count"))
        loads = len(re.findall(r"(?:global|buffer)_load_dwordx4", listing))
        return registers[1] if registers else "", spills[1] if spills else "", shared, str(loads)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (re.search(rf"{key}:(\d+)", usage) for key in ("REG", "STACK"))
    loads = len(re.findall(r"ld\.global\S*(?:\.v4\.b32|\.v2\.b64)", compiled.asm["ptx"]))
    return registers[1] if registers else "", stack[1] if stack else "", shared, str(loads)


if __name__ == "__main__":
    seen = set()
    for t in sys.argv[1].split(","):
        for row in compile_all(t):
            if row not in seen and (len(sys.argv) < 3 or row[0] in sys.argv[2:]):
                seen.add(row)
                print(*row, sep="  ", flush=True)
