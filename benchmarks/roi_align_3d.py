"""roi_align_3d and roi_align_1d on the CPU: verified, then timed. `python -m benchmarks.roi_align_3d`.

No peer that is installed has them, so the volume is held against pooling every slice with roi_align and averaging the
slices of each bin, as one would write it by hand, and the sequence against torchvision's roi_align on a map of one row.
"""

from __future__ import annotations

import torch
import torchvision
from tests.ops import tolerances
from torch import Tensor

import roialign
from roialign.ops import reference

from .implementations import Call
from .in_turn import gradient, report

VOLUMES = {  # channels, cells (z, y, x), boxes, sides in cells, bins
    "CT: 64x32x64x64, 128 boxes of 6 to 24 cells, 7x7x7 bins": (64, (32, 64, 64), 128, (6, 24), (7, 7, 7)),
    "video: 64x16x64x64, 128 boxes of 4 to 14 cells, 4x7x7 bins": (64, (16, 64, 64), 128, (4, 14), (4, 7, 7)),
}
SEQUENCE = (512, 2000, 500)  # channels, cells, segments
RATIO = 2


def boxes_in(size_dhw: tuple[int, int, int], count: int, sides: tuple[int, int]) -> Tensor:
    size_xyz = torch.tensor(size_dhw[::-1], dtype=torch.float32)
    lengths = sides[0] + (sides[1] - sides[0]) * torch.rand(count, 3)
    corners = torch.rand(count, 3) * (size_xyz - lengths).clamp(min=0)
    return torch.cat([torch.zeros(count, 1), corners, corners + lengths], 1)


def by_slices(volume: Tensor, rois: Tensor, bins: tuple[int, int, int]) -> Tensor:
    """Every slice pooled as a map, then each bin's linear samples along z averaged."""
    channels, depth = volume.shape[1:3]
    flat = roialign.roi_align(volume.flatten(1, 2), rois[:, [0, 1, 2, 4, 5]], bins[1:], 1.0, RATIO, True)
    length = (rois[:, 6] - rois[:, 3]) / bins[0]
    steps = torch.arange(bins[0] * RATIO) / RATIO + 0.5 / RATIO
    z = (rois[:, 3:4] - 0.5 + steps * length[:, None]).clamp(0, depth - 1)
    weights = (1 - (z[..., None] - torch.arange(depth)).abs()).clamp(min=0)
    weights = weights.unflatten(1, (bins[0], RATIO)).mean(2)
    return torch.einsum("kpz,kczyx->kcpyx", weights, flat.unflatten(1, (channels, depth)))


def volume_ways(volume: Tensor, rois: Tensor, bins: tuple[int, int, int]) -> dict[str, Call]:
    return {
        "roi_align_3d": lambda: [roialign.roi_align_3d(volume, rois, bins, 1.0, RATIO, True)],
        "roi_align of all slices, then their mean": lambda: [by_slices(volume, rois, bins)],
    }


def sequence_ways(signal: Tensor, segments: Tensor) -> dict[str, Call]:
    index, start, end = segments.unbind(1)
    rois = torch.stack([index, start, 0 * start, end, 0 * start + 1], 1)
    return {
        "roi_align_1d": lambda: [roialign.roi_align_1d(signal, segments, 16, 1.0, RATIO, True)],
        "torchvision.ops.roi_align, one row": lambda: [
            torchvision.ops.roi_align(signal[:, :, None], rois, (1, 16), 1.0, RATIO, True)[:, :, 0]
        ],
    }


def time_ways(title: str, features: Tensor, ways: dict[str, Call]) -> None:
    """Verify, then time forward and backward."""
    outputs = {name: call()[0] for name, call in ways.items()}
    first, *others = outputs.values()
    try:
        for other in others:
            tolerances.assert_close(first, other, features)
    except AssertionError as error:
        raise SystemExit(f"the results differ, so nothing is timed. {title}: {error}") from error
    with torch.no_grad():
        report(f"forward of {title}", ways)
    report(f"backward of {title}", {name: gradient(output, [features]) for name, output in outputs.items()})


def main() -> None:
    roialign.set_policy("ignore")
    for title, (channels, size_dhw, count, sides, bins) in VOLUMES.items():
        volume = torch.randn(1, channels, *size_dhw, requires_grad=True)
        rois = boxes_in(size_dhw, count, sides)
        few = volume[:, :2].detach(), rois[:10]
        options = (*bins, 1.0, 1.0, 1.0, RATIO, True)
        expected, _ = reference.roi_align_3d(*few, *options)
        tolerances.assert_close(roialign.roi_align_3d(*few, bins, 1.0, RATIO, True), expected, few[0])
        time_ways(title, volume, volume_ways(volume, rois, bins))
    channels, length, count = SEQUENCE
    signal = torch.randn(2, channels, length, requires_grad=True)
    starts = torch.rand(count) * length * 0.7
    segments = torch.stack([torch.arange(count) % 2, starts, starts + 5 + torch.rand(count) * length * 0.25], 1)
    title = f"sequences: 2x{channels}x{length}, {count} segments, 16 bins"
    time_ways(title, signal, sequence_ways(signal, segments))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
