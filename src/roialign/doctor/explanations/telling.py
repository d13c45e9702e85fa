"""From a weighed explanation to a finding: how it is known, what to type, and what was checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence, call_line, rows_where
from roialign.doctor.explanations import table, words
from roialign.doctor.explanations.orders import Order, mirrored
from roialign.doctor.explanations.scene import Place, in_order
from roialign.doctor.explanations.weigh import Explanation, Weighed
from roialign.doctor.findings import Finding, Fix
from roialign.doctor.lines import paste
from roialign.ops.calls import RoICall

_MOST_ALTERNATIVES = 3
_OF_A_SCALE = ("RA101", "RA104", "RA106", "RA108")
_SAME = 1e-9
_WITHIN = math.log(table.SURE)  # log odds behind the first up to which another explanation is named


def findings(weighed: Weighed) -> list[Finding]:
    """The likeliest explanation, if it is likelier than that nothing is wrong."""
    if weighed.healthy_log_odds > -math.log(table.LIKELY):
        return []
    return [tell(weighed, *split(weighed))]


def split(weighed: Weighed) -> tuple[Explanation, list[Explanation]]:
    """The likeliest explanation of what is wrong, and those that are not far behind."""
    first, *others = (one for one in weighed.explanations if one.codes)
    return first, [one for one in others if one.weight > first.weight - _WITHIN]


def tell(weighed: Weighed, first: Explanation, others: list[Explanation]) -> Finding:
    """The finding that `first` is, and `others` besides."""
    known = weighed.scene.known
    code = first.codes[0]
    fix = _fix(known, first)
    alternatives = tuple(other for one in others if (other := _fix(known, one)) is not None and _differs(other, fix))
    beyond = known.low if bool(known.low.any()) else torch.ones_like(known.low)
    toys = known.is_thin and first.order.code is not None  # random numbers, of which any order may fit
    unsure = -weighed.healthy_log_odds < math.log(table.SURE)
    doubtful = toys or unsure or (fix is not None and _reach_out_of_the_map(fix))
    return Finding(
        code,
        words.evidence(known, first),
        rows_where(beyond),
        fix,
        alternatives[:_MOST_ALTERNATIVES],
        words.decide(known, first, [one for one in others if one.codes != first.codes], doubtful),
        odds=math.exp(min(first.log_odds, 50.0)),
        doubtful=doubtful,
    )


def _reach_out_of_the_map(fix: Fix) -> bool:
    """Whether most boxes still do with the fix, as anchors and proposals that were not clipped do in any frame."""
    call = fix.call
    if call.cells is not None:
        return False
    cells, (height, width) = call.rois[:, 1:] * call.spatial_scale, call.map_size_hw
    out = (cells[:, :2] < -1).any(1) | (cells[:, 2:] > cells.new_tensor([width + 1, height + 1])).any(1)
    return float(out.float().mean()) > 0.5


@dataclass(frozen=True)
class _Target:
    """The units that repaired boxes are in: cell = number * per_unit + shift, along x, y, x, y."""

    per_unit: Tensor
    shift: Tensor | float
    spatial_scale: float


def _fix(known: Evidence, explanation: Explanation) -> Fix | None:
    """The call as it was meant, run again; None where the numbers do not tell all of it."""
    place, order, call = explanation.place, explanation.order, known.call
    some_turned = any(place.transposed) and not all(place.transposed)  # which no line says for all images
    if place.at is not None or place.name in ("window", "another size") or not explanation.only or some_turned:
        return None
    target = _target(known, place)
    scale, shift = place.scale / target.per_unit, (place.shift - target.shift) / target.per_unit
    images = call.rois[:, 0].long().cpu()
    corners = order.corners(known.boxes_xyxy.cpu().double())
    corners = corners[:, [1, 0, 3, 2]] if any(place.transposed) else corners
    boxes = in_order(corners * _of_rows(scale, images) + _of_rows(shift, images), _of_rows(scale, images))
    lines = _lines(call, explanation, scale, shift)
    if order.mirror:
        content = (place.content - target.shift) / target.per_unit
        if bool((content != content[0]).any()):  # one line cannot mirror images of several sizes
            return None
        boxes = mirrored(boxes, _of_rows(content, images), order.mirror)
        lines.append(_mirror_line(call, content, order))
    rois = torch.cat([call.rois[:, :1], boxes.to(call.rois)], 1)
    changed = call.with_(rois=rois, spatial_scale=target.spatial_scale)
    if not lines and target.spatial_scale == call.spatial_scale:
        return None
    argument, value = ("boxes", None) if lines else ("spatial_scale", target.spatial_scale)
    if target.spatial_scale != call.spatial_scale:
        lines.append(call_line(changed))
    return known.fix(argument, value, "\n".join(lines), changed)


def _target(known: Evidence, place: Place) -> _Target:
    """Pixels of the image that entered, where one scale takes them to cells, otherwise cells."""
    call, lattice = known.call, place.lattice
    if call.cells is not None:
        scale_y, shift_y, scale_x, shift_x = call.cells
        per_unit, shift = torch.tensor([[scale_x, scale_y] * 2]), torch.tensor([[shift_x, shift_y] * 2])
        return _Target(per_unit.double(), 0.5 - shift.double(), call.spatial_scale)
    half = 0.5 if lattice.shifted and not call.aligned else 0.0
    as_called = call.spatial_scale
    if place.code == "RA102" or not lattice.even or (as_called == 1.0 and place.code not in _OF_A_SCALE):
        scale = 1.0
    elif place.code in _OF_A_SCALE or lattice.cells_off(as_called, call.map_size_hw) > 1:
        scale = 1 / lattice.stride_yx[0]
    else:
        scale = as_called
    return _Target(torch.full((1, 4), scale, dtype=torch.float64), half, scale)


def _of_rows(values: Tensor, images: Tensor) -> Tensor:
    return values if len(values) == 1 else values[images]


def _lines(call: RoICall, explanation: Explanation, scale: Tensor, shift: Tensor) -> list[str]:
    """What is typed to repair the boxes: their order first, then their units."""
    lines = [] if explanation.order.line in ("", "b") else [paste(call, explanation.order.line)]
    transposed = any(explanation.place.transposed)
    if explanation.place.code == "RA218" and bool((scale == scale[0]).all()) and bool((shift == shift[0]).all()):
        return [*lines, _turn_line(call, scale[0, :2].tolist(), shift[0, :2].tolist(), transposed)]
    if transposed:
        lines.append(paste(call, "b[:, [1, 0, 3, 2]]"))
    if float((scale - 1).abs().max()) > _SAME:
        lines.append(_affine(call, scale, "*"))
    if float(shift.abs().max()) > _SAME:
        lines.append(_affine(call, shift, "+"))
    if bool((scale < 0).any()):
        flipped = (scale[0, :2] < 0).tolist()
        columns = [2 if flipped[0] else 0, 3 if flipped[1] else 1, 0 if flipped[0] else 2, 1 if flipped[1] else 3]
        lines.append(paste(call, f"b[:, {columns}]"))
    return lines


def _affine(call: RoICall, values: Tensor, sign: str) -> str:
    x, y = (value + 0.0 for value in values[0, :2].tolist())
    if len(values) > 1 and bool((values != values[0]).any()):
        return paste(call, f"b {sign} v", values.tolist())
    if sign == "+" and max(x, y) <= 0:
        sign, x, y = "-", -x, -y
    if abs(x - y) <= _SAME * abs(x):
        return paste(call, f"b {sign} {x:.6g}")
    return paste(call, f"b {sign} b.new_tensor([{x:.6g}, {y:.6g}] * 2)")


def _turn_line(call: RoICall, scale_xy: list[float], shift_xy: list[float], transposed: bool) -> str:
    """All four edges at once: those of y become those of x where it is transposed, and the far edge the near one."""
    edges = []
    for far in (0, 2):
        for axis, (scale, shift) in enumerate(zip(scale_xy, shift_xy, strict=True)):
            column = (1 - axis if transposed else axis) + (far if scale > 0 else 2 - far)
            scaled = f"b[:, {column}]" if abs(abs(scale) - 1) <= _SAME else f"{abs(scale):.6g} * b[:, {column}]"
            moved = f" {'-' if shift < 0 else '+'} {abs(shift):.6g}" if abs(shift) > _SAME else ""
            edges.append(f"{scaled}{moved}" if scale > 0 else f"{shift + 0.0:.6g} - {scaled}")
    return paste(call, f"torch.stack([{', '.join(edges)}], 1)")


def _mirror_line(call: RoICall, content: Tensor, order: Order) -> str:
    left, top, right, bottom = content[0].tolist()
    if order.mirror == "x":
        first, second = (2, 0) if order.sorted else (0, 2)
        near, far = (f"{left + right:g} - b[:, {column}]" for column in (first, second))
        return paste(call, f"torch.stack([{near}, b[:, 1], {far}, b[:, 3]], 1)")
    first, second = (3, 1) if order.sorted else (1, 3)
    upper, lower = (f"{top + bottom:g} - b[:, {column}]" for column in (first, second))
    return paste(call, f"torch.stack([b[:, 0], {upper}, b[:, 2], {lower}], 1)")


def _differs(fix: Fix, other: Fix | None) -> bool:
    return other is None or fix.code != other.code
