"""RoIAlign of rotated boxes in pure PyTorch: the definition that the kernels are held against.

`rois` [K, 6] holds image index, centre x, centre y, width, height and angle, in the type that is computed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference import samples as sampled
from roialign.ops.reference.samples import Samples
from roialign.ops.reference.sampling import AxisCells, AxisSamples, BoxRule, Cells, is_on_map

_CELLS = AxisCells(scale=1.0, shift=0.0)


class RotatedRule(NamedTuple):
    """How rotated boxes are read."""

    spatial_scale: float
    sampling_ratio: int
    aligned: bool
    clockwise: bool
    radians: bool

    @property
    def box(self) -> BoxRule:
        return BoxRule.of_scale(self.spatial_scale, self.sampling_ratio, self.aligned)

    @property
    def radians_per_unit(self) -> float:
        """Of an angle as it is given: radians counter-clockwise."""
        return (-1.0 if self.clockwise else 1.0) * (1.0 if self.radians else math.pi / 180)


@dataclass(frozen=True)
class _Boxes:
    """Rotated boxes in cells of the map: rows and columns are those of the box, about its centre."""

    image: Tensor
    centre_y: Tensor
    centre_x: Tensor
    cos: Tensor
    sin: Tensor
    rows: AxisSamples
    columns: AxisSamples

    @classmethod
    def of_rois(cls, rois: Tensor, pooled_hw: tuple[int, int], rule: RotatedRule) -> _Boxes:
        image, centre_x, centre_y, width, height, angle = rois.unbind(1)
        cells = rule.box.rows
        cos, sin = _turn(angle.double(), rule)
        return cls(
            image.detach().long(),
            centre_y * cells.scale - cells.shift,
            centre_x * cells.scale - cells.shift,
            cos.to(rois.dtype),
            sin.to(rois.dtype),
            _about_centre(height * cells.scale, pooled_hw[0], rule),
            _about_centre(width * cells.scale, pooled_hw[1], rule),
        )

    def __getitem__(self, members: Tensor) -> _Boxes:
        return _Boxes(
            self.image[members],
            self.centre_y[members],
            self.centre_x[members],
            self.cos[members],
            self.sin[members],
            self.rows[members],
            self.columns[members],
        )

    def runs_near(self, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """Which samples along each side of the box can be on the map: first and past-the-last, [K, bins].

        The map is bounded in the box's own axes, with what rounding may add.
        """
        corners_y, corners_x = self.cos.new_tensor([[-1, -1, height, height], [-1, width, -1, width]]).unbind(0)
        dy, dx = corners_y - self.centre_y[:, None], corners_x - self.centre_x[:, None]
        cos, sin = self.cos[:, None], self.sin[:, None]
        sizes = ((side.bin * side.pooled).abs() for side in (self.rows, self.columns))
        largest = self.centre_y.abs() + self.centre_x.abs() + sum(sizes) + height + width
        margin = 1 + 32 * torch.finfo(cos.dtype).eps * largest
        runs = []
        for side, along in ((self.rows, dy * cos + dx * sin), (self.columns, dx * cos - dy * sin)):
            low, high = along.amin(1) - margin, along.amax(1) + margin
            runs.append(side.run_between(low[:, None, None], high[:, None, None]))
        return runs


@dataclass(frozen=True)
class _Chunk:
    samples: Samples
    boxes: _Boxes
    row_index: Tensor  # [k, ph, gy], which samples of the bin these are
    column_index: Tensor  # [k, pw, gx]


def roi_align_rotated(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: float
) -> tuple[Tensor, Tensor]:
    """Pool features [K, C, pooled_height, pooled_width], and the coverage [K] of each RoI."""
    rule = _rule(options)
    coverage = rois.detach().new_zeros(len(rois))

    def covered() -> Iterator[Samples]:
        for chunk in _chunks(rois, input.shape, (pooled_height, pooled_width), rule):
            samples, boxes = chunk.samples, chunk.boxes
            total = boxes.rows.grid.clamp(min=0) * boxes.columns.grid.clamp(min=0) * (pooled_height * pooled_width)
            on_map = samples.reads.sum((1, 2, 3, 4)).to(rois.dtype)
            coverage[samples.members] = on_map / total.clamp(min=1)
            yield samples

    shape = (len(rois), input.shape[1], pooled_height, pooled_width)
    return sampled.pool(input, covered(), shape, rois.dtype), coverage


def roi_align_rotated_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: float
) -> Tensor:
    """Gradient [N, C, H, W] with respect to the features, for `grad` [K, C, ph, pw] of the output."""
    shape = torch.Size((images, grad.shape[1], height, width))
    parts = (chunk.samples for chunk in _chunks(rois, shape, _pooled_hw(grad), _rule(options)))
    return sampled.scatter(grad, parts, (images, height, width), rois.dtype)


def roi_align_rotated_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: float) -> Tensor:
    """Gradient [K, 6] with respect to the boxes; the image index gets none."""
    rule = _rule(options)
    cells, grad_rois = rule.box.rows, torch.zeros_like(rois)
    for chunk in _chunks(rois, input.shape, _pooled_hw(grad), rule):
        slopes, boxes = sampled.slopes(input, grad, chunk.samples), chunk.boxes
        cos, sin = (value[:, None, None, None, None] for value in (boxes.cos, boxes.sin))
        by_rows = slopes.by_row * cos + slopes.by_column * sin
        by_columns = slopes.by_column * cos - slopes.by_row * sin
        down = (boxes.rows.shares(chunk.row_index) - 0.5)[:, :, None, :, None]
        across = (boxes.columns.shares(chunk.column_index) - 0.5)[:, None, :, None, :]
        height, width = (side.bin * side.pooled for side in (boxes.rows, boxes.columns))
        by_angle = by_columns * down * _spread(height) - by_rows * across * _spread(width)
        sums = [
            slopes.by_column.sum((1, 2, 3, 4)) * cells.scale,
            slopes.by_row.sum((1, 2, 3, 4)) * cells.scale,
            _unless_widened((by_columns * across).sum((1, 2, 3, 4)), width, rule) * cells.scale,
            _unless_widened((by_rows * down).sum((1, 2, 3, 4)), height, rule) * cells.scale,
            by_angle.sum((1, 2, 3, 4)) * rule.radians_per_unit,
        ]
        grad_rois[chunk.samples.members, 1:] = torch.stack(sums, dim=1)
    return grad_rois


def _rule(options: tuple[float, ...]) -> RotatedRule:
    scale, ratio, aligned, clockwise, radians = options
    return RotatedRule(scale, int(ratio), bool(aligned), bool(clockwise), bool(radians))


def _pooled_hw(grad: Tensor) -> tuple[int, int]:
    return grad.shape[2], grad.shape[3]


def _spread(of_rois: Tensor) -> Tensor:
    return of_rois[:, None, None, None, None]


def _unless_widened(grad_size: Tensor, size: Tensor, rule: RotatedRule) -> Tensor:
    return torch.where(size > 1, grad_size, 0.0) if rule.box.widen else grad_size


def _turn(angle: Tensor, rule: RotatedRule) -> tuple[Tensor, Tensor]:
    """Cosine and sine in float64, counter-clockwise; quarter turns in degrees are exact."""
    angle = -angle if rule.clockwise else angle
    if rule.radians:
        return angle.cos(), angle.sin()
    degrees = angle.fmod(360)
    quarters = (degrees / 90).detach().round()
    rest = (degrees - 90 * quarters) * (math.pi / 180)
    c, s = rest.cos(), rest.sin()
    which = quarters.long() % 4
    cos = torch.where(which == 0, c, torch.where(which == 1, -s, torch.where(which == 2, -c, s)))
    sin = torch.where(which == 0, s, torch.where(which == 1, c, torch.where(which == 2, -s, -c)))
    return cos, sin


def _about_centre(size: Tensor, pooled: int, rule: RotatedRule) -> AxisSamples:
    size = size.clamp(min=1.0) if rule.box.widen else size
    whole = BoxRule(_CELLS, _CELLS, rule.sampling_ratio, widen=False)
    return AxisSamples.of_boxes(-size / 2, size / 2, pooled, 0, _CELLS, whole)


def _chunks(rois: Tensor, input_shape: torch.Size, pooled_hw: tuple[int, int], rule: RotatedRule) -> Iterator[_Chunk]:
    _, channels, height, width = input_shape
    boxes = _Boxes.of_rois(rois, pooled_hw, rule)
    (top, bottom), (left, right) = boxes.runs_near(height, width)
    longest = [(last - first).amax(1) for first, last in ((top, bottom), (left, right))]
    sizes = longest[0] * longest[1] * (pooled_hw[0] * pooled_hw[1] * max(channels, 1))
    for image, members in sampled.chunks(boxes.image, sizes):
        some = boxes[members]
        row_index, in_rows = _indices(top[members], bottom[members])
        column_index, in_columns = _indices(left[members], right[members])
        along_rows = some.rows.positions(row_index)[:, :, None, :, None]
        along_columns = some.columns.positions(column_index)[:, None, :, None, :]
        cos, sin = _spread(some.cos), _spread(some.sin)
        # the peers' order of operations: whether a sample is on the map is decided on the rounded result
        y = along_rows * cos - along_columns * sin + _spread(some.centre_y)
        x = along_rows * sin + along_columns * cos + _spread(some.centre_x)
        reads = in_rows[:, :, None, :, None] & in_columns[:, None, :, None, :]
        reads = reads & is_on_map(y, height) & is_on_map(x, width)
        grid = (some.rows.grid.clamp(min=1) * some.columns.grid.clamp(min=1)).to(y.dtype)
        rows, columns = Cells.at(y, reads, height), Cells.at(x, reads, width)
        weight = _spread(1 / grid)
        yield _Chunk(Samples(image, members, reads, rows, columns, weight), some, row_index, column_index)


def _indices(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The indices [k, bins, G] from `first` on, and which of them are before `last`."""
    longest = int((last - first).max()) if first.numel() else 0
    index = first[:, :, None] + torch.arange(max(longest, 0), device=first.device)
    return index, index < last[:, :, None]
