"""The coverage of boxes, which ONNX's RoiAlign does not give, without a loop over samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roialign.ops.reference.sampling import AxisRule, AxisSamples


def coverage_of(
    rois: Tensor, size_hw: Sequence[int], bins: tuple[int, int], rules_yx: tuple[AxisRule, AxisRule]
) -> Tensor:
    """The share [K] of each box's samples that are on the map; a sample on the very edge may count otherwise."""
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows = AxisSamples.of_boxes(y1, y2, bins[0], rules_yx[0])
    columns = AxisSamples.of_boxes(x1, x2, bins[1], rules_yx[1])
    return _share(rows, size_hw[0]) * _share(columns, size_hw[1])


def _share(samples: AxisSamples, extent: int) -> Tensor:
    """Of samples at start + (index + 0.5) * step those from -1 to `extent`."""
    total = (samples.grid.clamp(min=0) * samples.pooled).to(samples.bin.dtype)
    length = samples.bin * samples.pooled
    low, step = torch.minimum(samples.start, samples.start + length), length.abs() / total.clamp(min=1)
    at_one_place = torch.where((low >= -1) & (low <= extent), total, 0.0)
    first = ((-1 - low) / step - 0.5).ceil().clamp(min=0)
    last = torch.minimum(((extent - low) / step - 0.5).floor(), total - 1)
    on_map = torch.where(step > 0, (last - first + 1).clamp(min=0), at_one_place)
    return on_map / total.clamp(min=1)
