"""RoIAlign of rotated boxes in pure PyTorch: the definition that the kernels are checked against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roialign.ops.reference.bilinear import total
from roialign.ops.reference.sampling import AxisRule, AxisSamples, Cells, is_on_map


def roi_align_rotated(
    planes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
    radians: bool,
) -> tuple[Tensor, Tensor]:
    """A bin is the mean of its samples, which are those of the upright box turned about its centre.

    Boxes [k, 5] hold centre x, centre y, width, height and angle.
    """
    rule = AxisRule.of_scale(spatial_scale, sampling_ratio, aligned)
    centre_x, centre_y = (centre * rule.scale - rule.shift for centre in boxes[:, :2].unbind(1))
    cos, sin = (one.to(boxes.dtype) for one in _turn(boxes[:, 4].double(), clockwise, radians))
    rows = _about_centre(boxes[:, 3] * rule.scale, height, rule)
    columns = _about_centre(boxes[:, 2] * rule.scale, width, rule)
    map_h, map_w = planes.shape[1:]
    (row_index, in_rows), (column_index, in_columns) = _near(
        rows, columns, (centre_y, centre_x), (cos, sin), map_h, map_w
    )
    along_rows = rows.positions(row_index)[:, :, None, :, None]
    along_columns = columns.positions(column_index)[:, None, :, None, :]
    cos, sin, centre_y, centre_x = (one[:, None, None, None, None] for one in (cos, sin, centre_y, centre_x))
    # the peers' order of operations: whether a sample is on the map is decided on the rounded result
    y = along_rows * cos - along_columns * sin + centre_y
    x = along_rows * sin + along_columns * cos + centre_x
    read = in_rows[:, :, None, :, None] & in_columns[:, None, :, None, :] & is_on_map(y, map_h) & is_on_map(x, map_w)
    pooled = total(planes, Cells.at(y, read, map_h), Cells.at(x, read, map_w))
    count = rows.count * columns.count
    samples = rows.grid.clamp(min=0) * columns.grid.clamp(min=0) * (height * width)
    coverage = read.sum((1, 2, 3, 4)).to(boxes.dtype) / samples.clamp(min=1)
    return pooled.transpose(0, 1) / count[:, None, None, None], coverage


def _about_centre(size: Tensor, pooled: int, rule: AxisRule) -> AxisSamples:
    size = torch.where(size > 1.0, size, 1.0) if rule.widen else size
    return AxisSamples.of_boxes(-size / 2, size / 2, pooled, AxisRule(1.0, 0.0, rule.sampling_ratio, widen=False))


def _near(
    rows: AxisSamples,
    columns: AxisSamples,
    centre_yx: tuple[Tensor, Tensor],
    turn: tuple[Tensor, Tensor],
    height: int,
    width: int,
) -> list[tuple[Tensor, Tensor]]:
    """The samples along each side of the boxes that can be on the map.

    The map is bounded in each box's own axes, with what rounding may add.
    """
    (centre_y, centre_x), (cos, sin) = (tuple(one.detach()[:, None] for one in pair) for pair in (centre_yx, turn))
    corners_y, corners_x = cos.new_tensor([[-1, -1, height, height], [-1, width, -1, width]]).unbind(0)
    dy, dx = corners_y - centre_y, corners_x - centre_x
    sizes = sum((side.bin.detach() * side.pooled).abs()[:, None] for side in (rows, columns))
    margin = 1 + 32 * torch.finfo(cos.dtype).eps * (centre_y.abs() + centre_x.abs() + sizes + height + width)
    found = []
    for side, along in ((rows, dy * cos + dx * sin), (columns, dx * cos - dy * sin)):
        low, high = along.amin(1, keepdim=True) - margin, along.amax(1, keepdim=True) + margin
        found.append(side.indices_between(low[..., None], high[..., None]))
    return found


def _turn(angle: Tensor, clockwise: bool, radians: bool) -> tuple[Tensor, Tensor]:
    """Cosine and sine in float64, counter-clockwise; quarter turns in degrees are exact."""
    angle = -angle if clockwise else angle
    if radians:
        return angle.cos(), angle.sin()
    degrees = angle.fmod(360)
    quarters = (degrees / 90).detach().round()
    rest = (degrees - 90 * quarters) * (math.pi / 180)
    c, s = rest.cos(), rest.sin()
    which = quarters.long() % 4
    cos = torch.where(which == 0, c, torch.where(which == 1, -s, torch.where(which == 2, -c, s)))
    sin = torch.where(which == 0, s, torch.where(which == 1, c, torch.where(which == 2, -s, -c)))
    return cos, sin
