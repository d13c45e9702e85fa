"""roi_align against torchvision's, on the CPU: verified first, then timed in turn. Run it with `make bench`.

Prints and writes benchmarks/results/roi_align.md: medians in milliseconds with the quartiles, and the ratio of the
medians. Absolute times depend on the machine; the ratio, measured in one process in turn, is what to read.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor

import roialign

RESULT = Path(__file__).parent / "results" / "roi_align.md"
REPEATS = 9


@dataclass(frozen=True)
class Workload:
    """A feature map and boxes as a detector meets them."""

    name: str
    channels: int
    map_size_hw: tuple[int, int]
    boxes: int
    side_px: tuple[float, float]
    stride: int
    output_size: int

    def make(self) -> tuple[Tensor, Tensor]:
        """Features [1, C, H, W] and rois [K, 5], the same ones at every call."""
        generator = torch.Generator().manual_seed(0)
        height, width = (cells * self.stride for cells in self.map_size_hw)
        features = torch.randn(1, self.channels, *self.map_size_hw, generator=generator)
        low, high = self.side_px
        sides = low + (high - low) * torch.rand(self.boxes, 2, generator=generator)
        corners = torch.rand(self.boxes, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        return features, torch.cat([torch.zeros(self.boxes, 1), corners, corners + sides], 1)


WORKLOADS = (
    Workload("W1, 1000 small boxes, stride 4", 256, (200, 336), 1000, (7, 55), 4, 7),
    Workload("W2, 300 boxes, stride 16", 1024, (50, 84), 300, (12, 250), 16, 14),
    Workload("W4, 2 boxes (latency)", 256, (64, 64), 2, (50, 250), 16, 7),
)


def verify(workload: Workload, sampling_ratio: int) -> None:
    """Raise unless features and gradients agree with torchvision's."""
    features, rois = workload.make()
    results = []
    for roi_align in (roialign.roi_align, torchvision.ops.roi_align):
        leaf = features.clone().requires_grad_()
        output = roi_align(leaf, rois, workload.output_size, 1 / workload.stride, sampling_ratio)
        output.backward(torch.cos(torch.arange(output.numel()).reshape(output.shape) * 0.1))
        results.append((output.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def times_ms(first: Callable[[], object], second: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Times of both functions, called in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for function, own in zip((first, second), times, strict=True):
            begin = time.perf_counter()
            function()
            if repeat:  # the first call of each is a warm-up
                own.append(1000 * (time.perf_counter() - begin))
    return times


def row(workload: Workload, sampling_ratio: int, backward: bool) -> str:
    features, rois = workload.make()

    def call(roi_align: Callable[..., Tensor]) -> Callable[[], object]:
        options = (workload.output_size, 1 / workload.stride, sampling_ratio)
        if not backward:
            return lambda: roi_align(features, rois, *options)
        leaf = features.clone().requires_grad_()
        output = roi_align(leaf, rois, *options)
        grad = torch.ones_like(output)
        return lambda: torch.autograd.grad(output, leaf, grad, retain_graph=True)

    ours, theirs = times_ms(call(roialign.roi_align), call(torchvision.ops.roi_align))
    cells = [
        workload.name,
        "backward" if backward else "forward",
        str(sampling_ratio) if sampling_ratio else "adaptive",
        *(_spread(times) for times in (ours, theirs)),
        f"{statistics.median(theirs) / statistics.median(ours):.1f}x",
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    lines = [
        f"`make bench`: roialign {roialign.__version__}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads, float32, median of {REPEATS} (quartiles), milliseconds.",
        "",
        "| workload | pass | sampling_ratio | roialign | torchvision | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for workload in WORKLOADS:
        for sampling_ratio in (2, 0):
            print(f"verifying {workload.name}, sampling_ratio {sampling_ratio}", flush=True)
            verify(workload, sampling_ratio)
    print(*lines, sep="\n", flush=True)
    for workload in WORKLOADS:
        for sampling_ratio in (2, 0):
            for backward in (False, True):
                lines.append(row(workload, sampling_ratio, backward))
                print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")
    print(f"written to {RESULT.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
