"""Peak memory of single calls, each in a fresh process: `python -m tests.ops.memory` prints it for all as JSON.

Linux only: the peak is the kernel's high-water mark of resident memory, which can be set back.
"""

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import roialign  # noqa: F401  (registers the operators)

ops = torch.ops.roialign
MB = 1 << 20
FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Call:
    """One call of an operator, and the layout of what it reads: the map's or the upstream gradient's."""

    op: str
    dtype: torch.dtype
    layout: str  # "contiguous", "channels last" or, for gradients, "expanded"
    shape: tuple[int, int, int, int]
    boxes: int
    sides: tuple[float, float]  # of the boxes, in cells
    size: int | tuple[int, int] = 7
    ratio: int = 2
    large_share: float = 0.0  # of boxes as large as the map

    def rois(self) -> Tensor:
        size_xy = torch.tensor([float(self.shape[3]), float(self.shape[2])])
        sides = self.sides[0] + (self.sides[1] - self.sides[0]) * torch.rand(self.boxes, 2)
        sides[torch.rand(self.boxes) < self.large_share] = 0.95 * size_xy
        corners = torch.rand(self.boxes, 2) * (size_xy - sides)
        return torch.cat([torch.zeros(self.boxes, 1), corners, corners + sides], dim=1)

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def prepare(self):
        """The call, ready to be made, of which only the result is still to be allocated."""
        images, channels, height, width = self.shape
        sampling, rois = (1.0, self.ratio, True), self.rois()
        pooled = self.boxes, channels, *self.size_hw
        if self.op == "roi_align":
            features = filled(self.shape, self.dtype, self.layout)
            return lambda: ops.roi_align(features, rois, *self.size_hw, *sampling)[0]
        grad = filled(pooled, self.dtype, self.layout)
        return lambda: ops.roi_align_backward(grad, rois, images, height, width, *sampling)


def filled(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    if layout == "expanded":
        return torch.ones((), dtype=dtype).expand(shape)
    last = layout == "channels last"
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, memory_format=memory_format).fill_(1)


WIDE, MANY, FLAT, SMALL = (1, 64, 640, 640), (1, 2, 200, 304), (1, 1, 4, 4000), (1, 1, 40, 40)
CALLS = {
    **{
        f"forward, {dtype}, {layout}": Call("roi_align", dtype, layout, WIDE, 500, (5, 60))
        for dtype in (FLOAT, HALF, BFLOAT)
        for layout in ("contiguous", "channels last")
    },
    "forward, many small boxes": Call("roi_align", FLOAT, "contiguous", MANY, 100_000, (3, 20), size=3),
    "forward, many small boxes, channels last": Call(
        "roi_align", HALF, "channels last", MANY, 100_000, (3, 20), size=3
    ),
    "forward, large boxes": Call("roi_align", FLOAT, "contiguous", (1, 1, 500, 4000), 60, (400, 499), ratio=0),
    "forward, few large boxes among small ones": Call(
        "roi_align", FLOAT, "contiguous", FLAT, 30_000, (2, 4), 2, 0, 0.05
    ),
    "forward, very many rows of bins": Call("roi_align", FLOAT, "contiguous", SMALL, 1, (20, 30), (3_000_000, 1)),
    "forward, very many columns of bins": Call("roi_align", FLOAT, "contiguous", SMALL, 2, (20, 30), (2, 1_000_000)),
    "forward, very many bins and no channels": Call(
        "roi_align", FLOAT, "contiguous", (1, 0, 40, 40), 1, (20, 30), (1 << 23, 100)
    ),
    "backward, very many rows of bins": Call(
        "roi_align_backward", FLOAT, "contiguous", SMALL, 1, (20, 30), (3_000_000, 1)
    ),
    "backward, float32": Call("roi_align_backward", FLOAT, "contiguous", WIDE, 4000, (5, 60)),
    "backward, float32, expanded": Call("roi_align_backward", FLOAT, "expanded", WIDE, 4000, (5, 60)),
    "backward, float16": Call("roi_align_backward", HALF, "contiguous", WIDE, 4000, (5, 60)),
    "backward, bfloat16, expanded": Call("roi_align_backward", BFLOAT, "expanded", WIDE, 4000, (5, 60)),
    "backward, bfloat16, channels last": Call("roi_align_backward", BFLOAT, "channels last", WIDE, 4000, (5, 60)),
    "backward, many small boxes": Call("roi_align_backward", FLOAT, "expanded", MANY, 100_000, (3, 20), size=3),
    "backward, large boxes": Call(
        "roi_align_backward", FLOAT, "contiguous", (1, 1, 500, 4000), 60, (400, 499), ratio=0
    ),
    "backward, few large boxes among small ones": Call(
        "roi_align_backward", HALF, "contiguous", FLAT, 30_000, (2, 4), 2, 0, 0.05
    ),
}


def resident(field: str) -> int:
    """VmRSS, resident memory now, or VmHWM, the most that it was, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def beyond_the_result(name: str) -> float:
    """Megabytes that the call takes at its peak, without those of its result."""
    torch.manual_seed(0)
    call = CALLS[name]
    Call(call.op, call.dtype, "contiguous", (1, 1, 4, 4), 1, (1, 2)).prepare()()  # what is set up once
    run = call.prepare()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    result = run()
    return (resident("VmHWM") - before - result.numel() * result.element_size()) / MB


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(dict(zip(CALLS, pool.map(beyond_the_result, CALLS, chunksize=1), strict=True))))
