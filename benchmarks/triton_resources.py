"""What the Triton kernels take of GPUs that need not be here: `python -m benchmarks.triton_resources [--write]`.

Compiles every kernel for sm_80, sm_90 and gfx942. Fails where one spills much, where channels_last maps are not read 16
bytes at once, and where the report is not the committed one, if that is of the same Triton.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from tests.ops.triton_calls import CALLS
from tests.ops.triton_launches import TYPE_NAMES, Launch, record, record_call
from triton.backends.compiler import GPUTarget

REPORT = Path(__file__).parent / "results/triton_resources.md"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
PYRAMID = ((64, 96), (32, 48), (16, 24), (8, 12))
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
MOST_STACK_BYTES = 192  # a call of the division takes 8, what the backward pass spills in float32 up to 176


class Row(NamedTuple):
    kernel: str
    dtype: str
    layout: str
    sampling: str
    target: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    wide_loads: int


OTHERS = (  # type and layout in which the other operators are compiled, and the calls that are left out of it
    (torch.float32, torch.contiguous_format, "adaptive"),
    (torch.float32, torch.channels_last, "ratio 2"),
    (torch.bfloat16, torch.channels_last, "adaptive"),
    (torch.float64, torch.contiguous_format, "ratio 2"),
)


def rows(target: str) -> Iterator[Row]:
    compiled = set()
    for sampling, dtype, layout, launches in recorded(target):
        for launch in launches:
            if (launch.name, launch.form) in compiled:
                continue
            compiled.add((launch.name, launch.form))
            options = {"num_warps": launch.num_warps, "enable_fp_fusion": False}
            found = triton.compile(launch.source(), target=TARGETS[target], options=options)
            name = "channels_last" if layout == torch.channels_last else "NCHW"
            yield Row(launch.name, TYPE_NAMES[dtype], name, sampling, target, *resources(found, target))


def recorded(target: str) -> Iterator[tuple[str, torch.dtype, torch.memory_format, list[Launch]]]:
    """What is launched, by operator and how it samples, type and layout."""
    with mock.patch.object(torch.version, "hip", "7" if target.startswith("gfx") else None):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):  # float16 is compiled as bfloat16 is
            for layout in (torch.channels_last, torch.contiguous_format):
                for ratio, sizes_hw in ((2, PYRAMID[:1]), (0, PYRAMID)):
                    sampling = "ratio 2, 1 map" if ratio else "adaptive, 4 maps"
                    yield sampling, dtype, layout, record(sizes_hw, dtype, layout, ratio=ratio, boxes=_boxes(layout))
        for sampling, call in CALLS.items():
            for dtype, layout, left_out in OTHERS:
                if not sampling.endswith(left_out):
                    last = layout == torch.channels_last
                    yield sampling, dtype, layout, record_call(call, dtype, channels_last=last, boxes=_boxes(layout))


def _boxes(layout: torch.memory_format) -> int:
    return 1000 if layout == torch.channels_last else 1  # contiguous maps are read in place for few boxes


def resources(compiled: Any, target: str) -> tuple[int, int, int, int]:
    """Registers, bytes of stack, bytes of shared memory, loads of 16 bytes."""
    if target.startswith("gfx"):
        listing = compiled.asm["amdgcn"]
        registers, stack = (
            _number(r"\.vgpr_count:\s+(\d+)", listing),
            _number(r"private_segment_fixed_size:\s+(\d+)", listing),
        )
        return registers, stack, compiled.metadata.shared, len(re.findall(r"(?:global|buffer)_load_dwordx4", listing))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wide = len(re.findall(r"ld\.global\S*(?:\.v4\.b32|\.v2\.b64)", compiled.asm["ptx"]))
    return _number(r"REG:(\d+)", usage), _number(r"STACK:(\d+)", usage), compiled.metadata.shared, wide


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def reads_channels(row: Row) -> bool:
    """Whether the kernel reads neighbouring channels of one cell."""
    return ("pool" in row.kernel or row.kernel == "largest") and not row.sampling.startswith("ps_")


def report(found: list[Row]) -> str:
    lines = [
        "# What the Triton kernels take of a GPU\n\n"
        f"Compiled by Triton {triton.__version__}, 256 channels, 7 x 7 bins; of volumes 4 x 4 x 4.\n"
        "Stack is bytes a thread: 8 of them for the call of a division, more for registers that were spilled.\n",
        "| " + " | ".join(name.replace("_", " ") for name in Row._fields) + " |",
        "|" + "---|" * 5 + "---:|" * 4,
        *("| " + " | ".join(map(str, row)) + " |" for row in found),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    found = list(dict.fromkeys(row for target in TARGETS for row in rows(target)))
    faults = [f"spills: {row}" for row in found if row.stack_bytes > MOST_STACK_BYTES]
    faults += [
        f"no loads of 16 bytes: {row}"
        for row in found
        if reads_channels(row) and row.layout == "channels_last" and row.target != "gfx942" and not row.wide_loads
    ]
    text = report(found)
    if "--write" in sys.argv:
        REPORT.write_text(text)
    committed = REPORT.read_text() if REPORT.exists() else ""
    if f"Triton {triton.__version__}," in committed and committed != text:
        faults.append(f"{REPORT.name} is out of date: python -m benchmarks.triton_resources --write")
    print("\n".join(faults) or f"{len(found)} kernels compiled for {', '.join(TARGETS)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
