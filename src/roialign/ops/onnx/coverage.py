"""The coverage of boxes, which ONNX's RoiAlign does not give, without a loop over samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roialign.ops.reference.sampling import AxisRule, AxisSamples


def coverage_of(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    bins: tuple[int, int],
    ratio: int,
    widen: bool,
) -> Tensor:
    """The share [K] of each box's samples that are on the map of its level, in the words of `multi_scale_roi_align`.

    A sample within a rounding of the border, one cell off the map, may count as on it here and off it there.
    """
    _, x1, y1, x2, y2 = rois.unbind(1)
    scale_y, shift_y, scale_x, shift_x = rois.new_tensor(cells).view(-1, 4).index_select(0, levels).unbind(1)
    in_cells = AxisRule(1.0, 0.0, ratio, widen)
    rows = AxisSamples.of_boxes(y1 * scale_y - shift_y, y2 * scale_y - shift_y, bins[0], in_cells)
    columns = AxisSamples.of_boxes(x1 * scale_x - shift_x, x2 * scale_x - shift_x, bins[1], in_cells)
    height, width = torch.zeros_like(levels), torch.zeros_like(levels)
    for level, one in enumerate(inputs):
        height, width = height + (levels == level) * one.shape[2], width + (levels == level) * one.shape[3]
    return _share(rows, height) * _share(columns, width)


def _share(samples: AxisSamples, extent: Tensor) -> Tensor:
    """Of samples at start + (index + 0.5) * step those from -1 to `extent`."""
    total = (samples.grid.clamp(min=0) * samples.pooled).to(samples.bin.dtype)
    length = samples.bin * samples.pooled
    low, step = torch.minimum(samples.start, samples.start + length), length.abs() / total.clamp(min=1)
    at_one_place = torch.where((low >= -1) & (low <= extent), total, 0.0)
    first = ((-1 - low) / step - 0.5).ceil().clamp(min=0)
    last = torch.minimum(((extent - low) / step - 0.5).floor(), total - 1)
    on_map = torch.where(step > 0, (last - first + 1).clamp(min=0), at_one_place)
    return on_map / total.clamp(min=1)
