"""roi_align_rotated on the CPU: boxes of the workloads, turned at random. No installed peer has it there.

Verified against the reference, then measured against the reference (on small workloads), and against roi_align of the
upright boxes, by roialign and by torchvision. `python -m benchmarks.roi_align_rotated [--quick] [--only W1]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

import roialign
from roialign.ops import reference

from .matrix_operators import Pool, main
from .workloads import Level, Setting


class _Reference(torch.autograd.Function):
    """The reference's own backward, rather than autograd through its forward."""

    @staticmethod
    def forward(ctx, features: Tensor, rois: Tensor, pooled: int, *options) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.rois, ctx.options, ctx.shape = rois, options, features.shape
        return reference.roi_align_rotated(features, rois, pooled, pooled, *options)[0]

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        images, _, height, width = ctx.shape
        gradient = reference.roi_align_rotated_backward(grad, ctx.rois, images, height, width, *ctx.options)
        return gradient, *(None,) * (2 + len(ctx.options))


def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
    """The boxes of the level, turned by -90 to 90 degrees about their centres."""
    images, x1, y1, x2, y2 = level.rois.unbind(1)
    degrees = torch.rand(len(images), generator=torch.Generator().manual_seed(5)) * 180 - 90
    rois = torch.stack([images, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, degrees], dim=1)
    size, scale, ratio = setting.workload.output_size, level.spatial_scale, setting.sampling_ratio

    def by_reference(features: Tensor) -> Tensor:
        return _Reference.apply(features, rois, size, scale, ratio, True, False, False)

    return lambda features: roialign.roi_align_rotated(features, rois, size, scale, ratio), by_reference


if __name__ == "__main__":
    main("roi_align_rotated", "Rotated boxes; `roi_align` pools upright boxes of the same sizes.", pools)
