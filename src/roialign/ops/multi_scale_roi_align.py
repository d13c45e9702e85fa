"""RoIAlign from several feature maps at once, each with a grid of its own: what pools from pyramids are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.ops import library, validate

_op: Any = torch.ops.roialign


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
        rois: [K, 5], image index, x1, y1, x2, y2, in the type that is computed in.
        levels: int64 [K], which map each box is pooled from.
        cells: four numbers for each map: scale and shift of the rows (y), then of the columns (x).
        output_size_hw: bins (height, width).
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        widen: whether boxes are widened to one cell.

    Returns:
        Features [K, C, height, width] and the coverage [K], the share of each box's samples that are on its map.

    Raises:
        RoIError: for arguments that cannot be right; see `roialign.errors`.

    Example:
        >>> coarse, fine = torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 8, 8), 1.0)
        >>> rois = torch.tensor([[0, 0.0, 0.0, 16.0, 16.0], [0, 8.0, 8.0, 64.0, 64.0]])
        >>> cells = [1 / 16, 0.5, 1 / 16, 0.5, 1 / 8, 0.5, 1 / 8, 0.5]  # strides 16 and 8
        >>> pooled, _ = multi_scale_roi_align([coarse, fine], rois, torch.tensor([1, 0]), cells, (1, 1), 2, False)
        >>> pooled.flatten()
        tensor([1., 2.])
    """
    maps = list(inputs)
    if torch.compiler.is_compiling():
        output, coverage = _op.multi_scale_roi_align(
            maps, rois, levels, list(cells), *output_size_hw, sampling_ratio, widen
        )
        return output, coverage
    validate.check_maps(maps, cells)
    library.say_once_if_slow(rois)
    try:
        output, coverage = _op.multi_scale_roi_align(
            maps, rois, levels, list(cells), *output_size_hw, sampling_ratio, widen
        )
    except RuntimeError:
        validate.check_levels(levels, len(maps), rois)
        options = (output_size_hw, sampling_ratio, widen)
        validate.check_values_of_levels(maps[0].shape[0], rois, levels, cells, *options)
        raise
    return output, coverage
