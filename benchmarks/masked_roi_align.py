"""masked_roi_align on the CPU: boxes of the workloads under masks of 28 x 28. No installed peer has it.

Verified against the reference, then measured against the reference (on small workloads), and against roi_align of the
same boxes, by roialign and by torchvision. `python -m benchmarks.masked_roi_align [--quick] [--only W1]`.
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
    def forward(ctx, features: Tensor, *arguments) -> Tensor:  # type: ignore[no-untyped-def]
        rois, masks, pooled, *options = arguments
        ctx.inputs, ctx.options, ctx.shape = (rois, masks), options, features.shape
        return reference.masked_roi_align(features, rois, masks, pooled, pooled, *options)[0]

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        images, _, height, width = ctx.shape
        gradient = reference.masked_roi_align_backward(grad, *ctx.inputs, images, height, width, *ctx.options)
        return gradient, *(None,) * (3 + len(ctx.options))


def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
    """The boxes of the level, each under a disc."""
    centres = torch.linspace(-1, 1, 28)
    disc = (centres[:, None] ** 2 + centres**2 < 1).expand(len(level.rois), 28, 28)
    size, scale, ratio = setting.workload.output_size, level.spatial_scale, setting.sampling_ratio

    def by_kernels(features: Tensor) -> Tensor:
        return roialign.masked_roi_align(features, level.rois, disc, size, scale, ratio, masks_in="box")

    def by_reference(features: Tensor) -> Tensor:
        return _Reference.apply(features, level.rois, disc, size, scale, ratio, True, False)

    return by_kernels, by_reference


if __name__ == "__main__":
    main("masked_roi_align", "Masks that cover their boxes; `roi_align` pools the same boxes without masks.", pools)
