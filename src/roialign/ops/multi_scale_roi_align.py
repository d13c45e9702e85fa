"""RoIAlign from several feature maps at once, each with its own grid; the basis of pooling from pyramids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.ops import validate
from roialign.ops.notice import OffTheMap
from roialign.ops.operators import usable_of_levels
from roialign.ops.perform import perform


def multi_scale_roi_align(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    output_size_hw: tuple[int, int],
    sampling_ratio: int,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    """Pool each box from the map of its level, in one call.

    Convention: along each axis the cell that a coordinate falls on is coordinate * scale - shift; a cell's centre
    is its index. `widen` makes boxes at least one cell long, as torchvision does with aligned=False.

    Computed, differentiable and deterministic as `roi_align` is.

    Args:
        inputs: L feature maps [N, C, H, W] of one type, with the same N and C.
        rois: [K, 5], batch index, x1, y1, x2, y2, in the type that is computed in.
        levels: int64 [K], which map each box is pooled from.
        cells: four numbers for each map: scale and shift of the rows (y), then of the columns (x).
        output_size_hw: bins (height, width).
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        widen: whether boxes are widened to one cell.

    Returns:
        Features [K, C, height, width] and the coverage [K], the share of each box's samples that are on its map.

    Raises:
        RoIError: for invalid arguments; see `roialign.errors`.

    Example:
        >>> coarse, fine = torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 8, 8), 1.0)
        >>> rois = torch.tensor([[0, 0.0, 0.0, 16.0, 16.0], [0, 8.0, 8.0, 64.0, 64.0]])
        >>> cells = [1 / 16, 0.5, 1 / 16, 0.5, 1 / 8, 0.5, 1 / 8, 0.5]  # strides 16 and 8
        >>> pooled, _ = multi_scale_roi_align([coarse, fine], rois, torch.tensor([1, 0]), cells, (1, 1), 2, False)
        >>> pooled.flatten()
        tensor([1., 2.])
    """
    return pool_levels(inputs, rois, levels, cells, output_size_hw, sampling_ratio, widen, shown=None, off_the_map=None)


def pool_levels(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    output_size_hw: tuple[int, int],
    sampling_ratio: int,
    widen: bool,
    shown: Callable[[], Any] | None,
    off_the_map: OffTheMap | None,
) -> tuple[Tensor, Tensor]:
    """`multi_scale_roi_align`, shown to those who look at calls as `shown` makes it, if at all."""
    maps, options = list(inputs), (sampling_ratio, widen)
    if not torch.compiler.is_compiling():
        validate.check_maps(maps, cells)

    def refuse() -> None:
        validate.check_levels(levels, len(maps), rois)
        usable = usable_of_levels(rois, levels, cells, output_size_hw, *options)
        validate.check_rows(maps[0].shape[0], rois, usable)

    output, coverage = perform(
        torch.ops.roialign.multi_scale_roi_align.default,
        (maps, rois, levels, list(cells), *output_size_hw, *options),
        (*maps[:1], rois, *maps[1:]),
        refuse,
        shown,
        off_the_map,
    )
    return output, coverage
