"""From the masks of RoIs to masks of the image, in PyTorch: used on every device.

Each mask is read, with a border of zeros, by the bilinear rule of the RoI operators at the centres of the image's
pixels. Rows and columns factor: out = Ay M Ax^T, computed box by box, only where the box is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from roialign.ops.reference.sampling import Cells

_VALUES_AT_ONCE = 1 << 20


class _Span(NamedTuple):
    """The image's pixels `first` to `last` - 1 along one axis, and where they lie on the mask with its border."""

    first: int
    last: int
    start: float
    step: float

    def matrix(self, first: int, last: int, extent: int, like: Tensor) -> Tensor:
        """Weights [pixels, extent] for the pixels from `first` to `last` - 1."""
        pixels = torch.arange(first, last, dtype=torch.float64, device=like.device)
        position = self.start + (pixels + 0.5) * self.step
        cells = Cells.at(position, torch.ones_like(position, dtype=torch.bool), extent)
        weights = torch.zeros(last - first, extent, dtype=torch.float64, device=like.device)
        weights.scatter_add_(1, cells.low[:, None], (1 - cells.fraction)[:, None])
        weights.scatter_add_(1, cells.high[:, None], cells.fraction[:, None])
        return weights.to(like.dtype)


class _Block(NamedTuple):
    """Some rows of one box in the image, with the matrices that lead there from its mask."""

    box: int
    rows: slice
    columns: slice
    from_rows: Tensor
    from_columns: Tensor


def paste_masks(
    masks: Tensor, boxes_xyxy: Tensor, height: int, width: int, threshold: float | None, torchvision: bool
) -> Tensor:
    """Masks [K, height, width] of the image: bool, or values where there is no threshold."""
    computed = masks.to(torch.promote_types(masks.dtype, torch.float32))
    bordered = pad(computed, (1, 1, 1, 1))
    shape = len(masks), height, width
    pasted = masks.new_zeros(shape, dtype=masks.dtype if threshold is None else torch.bool)
    for block in _blocks(bordered, boxes_xyxy, height, width, torchvision):
        values = block.from_rows @ bordered[block.box] @ block.from_columns.T
        pasted[block.box, block.rows, block.columns] = values if threshold is None else values >= threshold
    return pasted


def paste_masks_backward(
    grad: Tensor, boxes_xyxy: Tensor, mask_height: int, mask_width: int, torchvision: bool
) -> Tensor:
    """Gradient [K, mask_height, mask_width] to the masks, for `grad` [K, H, W] of values without a threshold."""
    computed = torch.promote_types(grad.dtype, torch.float32)
    bordered = grad.new_zeros(len(grad), mask_height + 2, mask_width + 2, dtype=computed)
    for block in _blocks(bordered, boxes_xyxy, grad.shape[1], grad.shape[2], torchvision):
        upstream = grad[block.box, block.rows, block.columns].to(computed)
        bordered[block.box] += block.from_rows.T @ upstream @ block.from_columns
    return bordered[:, 1:-1, 1:-1].to(grad.dtype).contiguous()


def _blocks(bordered: Tensor, boxes_xyxy: Tensor, height: int, width: int, torchvision: bool) -> Iterator[_Block]:
    extent_y, extent_x = bordered.shape[1:]
    spans = _as_torchvision if torchvision else _as_detectron2
    for box, (ys, xs) in enumerate(spans(boxes_xyxy, (extent_y, extent_x), height, width)):
        if ys is None or xs is None or ys.first >= ys.last or xs.first >= xs.last:
            continue
        from_columns = xs.matrix(xs.first, xs.last, extent_x, bordered)
        step = max(1, _VALUES_AT_ONCE // (xs.last - xs.first))
        for first in range(ys.first, ys.last, step):
            last = min(first + step, ys.last)
            from_rows = ys.matrix(first, last, extent_y, bordered)
            yield _Block(box, slice(first, last), slice(xs.first, xs.last), from_rows, from_columns)


_Spans = Iterator[tuple[_Span | None, _Span | None]]


def _as_detectron2(boxes_xyxy: Tensor, extents_yx: tuple[int, int], height: int, width: int) -> _Spans:
    """The mask covers its box; half a pixel of the mask fades beyond it, of which a pixel of the image is taken."""
    for x1, y1, x2, y2 in boxes_xyxy.double().tolist():
        yield _covering(y1, y2, height, extents_yx[0]), _covering(x1, x2, width, extents_yx[1])


def _covering(low: float, high: float, size: int, extent: int) -> _Span | None:
    if not high > low:
        return None
    step = (extent - 2) / (high - low)
    return _Span(max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, size), 0.5 - low * step, step)


def _as_torchvision(boxes_xyxy: Tensor, extents_yx: tuple[int, int], height: int, width: int) -> _Spans:
    """The mask with its border covers a box that is larger in proportion, cut to whole pixels, the last included."""
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * 0.5
    centre = (boxes_xyxy[:, 2:] + boxes_xyxy[:, :2]) * 0.5
    # torchvision's masks are square: it takes the width for both axes
    half = half * (extents_yx[1] / (extents_yx[1] - 2))
    for x1, y1, x2, y2 in torch.cat([centre - half, centre + half], 1).double().tolist():
        spans = []
        for low, high, size, extent in (
            (int(y1), int(y2), height, extents_yx[0]),
            (int(x1), int(x2), width, extents_yx[1]),
        ):
            step = extent / max(high - low + 1, 1)
            spans.append(_Span(max(low, 0), min(high + 1, size), -low * step - 0.5, step))
        yield spans[0], spans[1]
