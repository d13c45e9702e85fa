"""RoIAlign from several maps, each box from one of them, in pure PyTorch: `roi_align` for the boxes of each level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from roialign.ops.reference.roi_align import correlate, pool, scatter
from roialign.ops.reference.sampling import BoxRule, rules_of


def multi_scale_roi_align(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    output = inputs[0].new_zeros(len(rois), inputs[0].shape[1], pooled_height, pooled_width)
    coverage = rois.detach().new_zeros(len(rois))
    for level, (rows, rule) in enumerate(_levels(levels, rules_of(cells, sampling_ratio, widen))):
        pooled, covered = pool(inputs[level], rois[rows], (pooled_height, pooled_width), rule)
        output, coverage = output.index_copy(0, rows, pooled), coverage.index_copy(0, rows, covered)
    return output, coverage


def multi_scale_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    heights: Sequence[int],
    widths: Sequence[int],
    cells: Sequence[float],
    sampling_ratio: int,
    widen: bool,
) -> list[Tensor]:
    """Gradient [N, C, H, W] with respect to the features of each level."""
    sizes_nhw = [(images, height, width) for height, width in zip(heights, widths, strict=True)]
    return [
        scatter(grad[rows], rois[rows], sizes_nhw[level], rule)
        for level, (rows, rule) in enumerate(_levels(levels, rules_of(cells, sampling_ratio, widen)))
    ]


def multi_scale_roi_align_backward_boxes(
    grad: Tensor,
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    sampling_ratio: int,
    widen: bool,
) -> Tensor:
    """Gradient [K, 5] with respect to the boxes; the image index gets none."""
    grad_rois = torch.zeros_like(rois)
    for level, (rows, rule) in enumerate(_levels(levels, rules_of(cells, sampling_ratio, widen))):
        grad_rois[rows] = correlate(grad[rows], inputs[level], rois[rows], rule)
    return grad_rois


def _levels(levels: Tensor, rules: list[BoxRule]) -> Iterator[tuple[Tensor, BoxRule]]:
    """The rows of each level's boxes, and how they are read."""
    for level, rule in enumerate(rules):
        yield (levels == level).nonzero().flatten(), rule
