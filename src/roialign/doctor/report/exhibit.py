"""What a report shows of one problem, as numbers and pictures; no markup.

Convention: `cells_xyxy` are in cells of the feature map, x first. The centre of cell c is at c, so a map of
H x W cells covers [-0.5, W - 0.5] x [-0.5, H - 0.5]: the coordinates that the bilinear sampler reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roialign.doctor.findings import Problem
from roialign.doctor.picture import Edges
from roialign.doctor.report.pictures import energy_picture, image_picture
from roialign.ops.calls import RoICall
from roialign.ops.reference.sampling import AxisRule, AxisSamples

BoxXYXY = tuple[float, float, float, float]

PANEL_WIDTH = 480  # units of the drawing, about one pixel each
MAX_ROWS = 100
MAX_OUTLINES = 60
MAX_SAMPLED_ROIS = 12
MAX_SAMPLES = 3000
MAX_GRID_LINES = 64
MIN_GRID_GAP = 6  # units of the drawing between grid lines
MIN_SAMPLE_GAP = 4  # units of the drawing between samples
MAX_MAPS_AWAY = 33  # shows pixels read as cells whole, up to stride 32; beyond, the map would be a dot
LEAST_LIKELIER = 20  # times as likely to follow the picture, for the page to say so
MAPS_AROUND = 1  # what is shown around the map when RoIs are further off than that
_BIN_EDGES = (0.2, 0.4, 0.6, 0.8)
_BIN_LABELS = ("0", "under 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "under 1", "1")


@dataclass(frozen=True)
class Outline:
    """The rectangle that one RoI's samples fill."""

    row: int
    cells_xyxy: BoxXYXY
    concerned: bool


@dataclass(frozen=True)
class Panel:
    """One call drawn over its feature map."""

    name: str
    map_size_hw: tuple[int, int]
    view_xyxy: BoxXYXY
    """The part of the plane that is drawn, in cells."""
    grid_step: int
    """Cells from one grid line to the next."""
    picture: str | None
    """Data URI of what lies under the map: the image or the energy of the features."""
    shows_image: bool
    reads: tuple[Outline, ...]
    """The RoIs as the call reads them, those concerned first."""
    meant: tuple[Outline, ...]
    """The same RoIs as the fixed call reads them."""
    far: tuple[Outline, ...]
    """Those of `reads` that are outside the view."""
    samples_xy: tuple[tuple[float, float], ...]
    image: int | None
    """The index of the image whose RoIs are drawn."""
    undrawable: int
    """How many RoIs have no finite coordinates."""
    rois: int
    """How many RoIs the call has."""
    coverage: float | None
    """Mean over all RoIs of the call."""
    likelier: float | None = None
    """How many times as likely as those called these boxes are drawn around things of the image, if it tells."""


@dataclass(frozen=True)
class Bar:
    """How many RoIs have a coverage in one range."""

    label: str
    before: int
    after: int | None


@dataclass(frozen=True)
class Row:
    """One RoI in the table."""

    row: int
    image: float
    box_xyxy: BoxXYXY
    cells_xyxy: BoxXYXY
    coverage_before: float | None
    coverage_after: float | None


@dataclass(frozen=True)
class Exhibit:
    """All that the page shows of one problem besides its words."""

    panels: tuple[Panel, ...]
    histogram: tuple[Bar, ...]
    rows: tuple[Row, ...]
    rows_left_out: int

    @classmethod
    def of(cls, problem: Problem) -> Exhibit:
        """Prepare the figure, the histogram and the table of `problem`."""
        call, fix = problem.diagnosis.call, problem.finding.fix
        before = problem.diagnosis.coverage
        after = coverage_of(fix.call) if fix else None
        if call is None:
            return cls(_panels(problem, None, after), (), (), 0)
        if before is not None and len(before) != len(call.rois):
            before = None
        comparable = fix is not None and len(fix.call.rois) == len(call.rois)
        concerned = concerned_rows(problem)
        rows = concerned or range(len(call.rois))
        return cls(
            _panels(problem, before, after),
            _histogram(before, after),
            _rows(call, rows[:MAX_ROWS], before, after if comparable else None),
            max(len(rows) - MAX_ROWS, 0),
        )


def concerned_rows(problem: Problem) -> tuple[int, ...]:
    """The rows that the finding names, as far as the call has them."""
    call = problem.diagnosis.call
    return tuple(row for row in problem.finding.rois if call is None or 0 <= row < len(call.rois))


def coverage_of(call: RoICall) -> Tensor | None:
    """Each RoI's coverage [K], or None where the call cannot be run."""
    return call.coverage().cpu() if bool(call.usable().all()) else None


def read_cells_xyxy(call: RoICall) -> Tensor:
    """The cells [K, 4] between which each RoI is sampled, the least size of one cell included."""
    rows, columns = _axes(call)
    low = [columns.start, rows.start]
    high = [axis.start + axis.bin * axis.pooled for axis in (columns, rows)]
    return torch.stack(low + high, dim=1)


def _axes(call: RoICall) -> tuple[AxisSamples, AxisSamples]:
    _, x1, y1, x2, y2 = call.rois.detach().cpu().unbind(1)
    bins_y, bins_x = call.output_size_hw
    if call.cells is None:
        rows = columns = AxisRule.of_scale(call.spatial_scale, call.sampling_ratio, call.aligned)
    else:
        scale_y, shift_y, scale_x, shift_x = call.cells
        rows, columns = (
            AxisRule(scale, shift, call.sampling_ratio, not call.aligned)
            for scale, shift in ((scale_y, shift_y), (scale_x, shift_x))
        )
    return AxisSamples.of_boxes(y1, y2, bins_y, rows), AxisSamples.of_boxes(x1, x2, bins_x, columns)


def _panels(problem: Problem, before: Tensor | None, after: Tensor | None) -> tuple[Panel, ...]:
    call, fix, image_chw = problem.diagnosis.call, problem.finding.fix, problem.diagnosis.image
    picture = None if image_chw is None else image_picture(image_chw)
    shown = call or (fix.call if fix else None)
    photo = None if picture is None or shown is None else (_pictured_image(shown), picture)
    concerned = concerned_rows(problem)
    comparable = fix is not None and (call is None or len(fix.call.rois) == len(call.rois))
    fixed = _panel("With the fix", fix.call, concerned if comparable else (), (), after, photo) if fix else None
    if call is None:
        return (fixed,) if fixed else ()
    if fix and fixed and photo and comparable and image_chw is not None:
        likelier = _likelier(image_chw, photo[0], call, fix.call)
        if likelier >= LEAST_LIKELIER:
            fixed = replace(fixed, name="With the fix, as they follow the picture", likelier=likelier)
    one_map = fixed is not None and fixed.map_size_hw == call.map_size_hw
    meant = tuple(outline for outline in fixed.reads if outline.concerned) if fixed and one_map and comparable else ()
    called = _panel("As called", call, concerned, meant, before, photo)
    return (called, fixed) if fixed else (called,)


def _panel(
    name: str,
    call: RoICall,
    concerned: Sequence[int],
    meant: tuple[Outline, ...],
    coverage: Tensor | None,
    photo: tuple[int, str] | None,
) -> Panel:
    finite = call.rois.detach().isfinite().all(1).cpu()
    reads, image = _outlines(call, concerned, finite, photo[0] if photo else None)
    picture = photo[1] if photo and image in (None, photo[0]) else None
    view = _view(call.map_size_hw, [outline.cells_xyxy for outline in (*reads, *meant)])
    return Panel(
        name=name,
        map_size_hw=call.map_size_hw,
        view_xyxy=view,
        grid_step=_grid_step(call.map_size_hw, view),
        picture=picture or energy_picture(call.input, image),
        shows_image=picture is not None,
        reads=reads,
        meant=meant,
        far=tuple(outline for outline in reads if _is_outside(outline.cells_xyxy, view)),
        samples_xy=_samples_xy(call, [outline.row for outline in reads if outline.concerned], view),
        image=image,
        undrawable=int((~finite).sum()),
        rois=len(call.rois),
        coverage=float(coverage.nanmean()) if coverage is not None and len(coverage) else None,
    )


def _likelier(image_chw: Tensor, image: int, call: RoICall, fixed: RoICall) -> float:
    """How many times as likely the boxes of this image are drawn around its things as `fixed` reads them."""
    rows = (call.rois[:, 0].cpu() == image) & (fixed.rois[:, 0].cpu() == image)
    size_wh = torch.tensor(image_chw.shape[:0:-1])
    hypotheses = [
        (read_cells_xyxy(one)[rows] + 0.5) * (size_wh / torch.tensor(one.map_size_hw[::-1])).repeat(2)
        for one in (call, fixed)
    ]
    as_called, as_fixed = Edges.of(image_chw).follow(torch.stack(hypotheses)).tolist()
    return math.exp(as_fixed - as_called) if as_fixed > 0 else 0.0


def _pictured_image(call: RoICall) -> int:
    """The index of the image that is kept with a diagnosis: that of the first RoI."""
    index = float(call.rois[0, 0]) if len(call.rois) else 0.0
    return int(index) if 0 <= index < len(call.input) else 0


def _outlines(
    call: RoICall, concerned: Sequence[int], finite: Tensor, pictured: int | None
) -> tuple[tuple[Outline, ...], int | None]:
    """The RoIs to draw, all of one image and those concerned first, and the index of that image.

    It is the image of which there is a picture, where RoIs of it are concerned.
    """
    cells = read_cells_xyxy(call)
    drawable = (finite & cells.isfinite().all(1)).tolist()
    named = set(concerned)
    rows = [*concerned, *(row for row in range(len(call.rois)) if row not in named)]
    rows = [row for row in rows if drawable[row]]
    if not rows:
        return (), None
    images = call.rois[:, 0].detach().tolist()
    images_concerned = [images[row] for row in rows if not named or row in named]
    image = pictured if pictured is not None and pictured in images_concerned else images[rows[0]]
    shown = [row for row in rows if images[row] == image][:MAX_OUTLINES]
    outlines = tuple(Outline(row, _box(cells[row]), not named or row in named) for row in shown)
    return outlines, int(image)


def _samples_xy(call: RoICall, rows: list[int], view_xyxy: BoxXYXY) -> tuple[tuple[float, float], ...]:
    """Where the samples of these RoIs lie, of those where they can be seen apart, if they are few."""
    if not 0 < len(rows) <= MAX_SAMPLED_ROIS:
        return ()
    axes = _axes(call.with_(rois=call.rois[rows]))
    gap = MIN_SAMPLE_GAP / PANEL_WIDTH * (view_xyxy[2] - view_xyxy[0])
    apart = [(axis.grid > 0) & (axis.bin.abs() / axis.grid.clamp(min=1) >= gap) for axis in axes]
    members = (apart[0] & apart[1]).nonzero().flatten()
    counts = [axis[members].grid.clamp(max=MAX_SAMPLES) * axis.pooled for axis in axes]
    if int((counts[0] * counts[1]).sum()) > MAX_SAMPLES:
        return ()
    points: list[tuple[float, float]] = []
    for place in members.tolist():
        member = torch.tensor([place])
        y, x = (axis[member].positions(torch.arange(int(axis.grid[member]))).flatten().tolist() for axis in axes)
        points += [(column, row) for row in y for column in x]
    return tuple(points)


def _is_outside(cells_xyxy: BoxXYXY, view_xyxy: BoxXYXY) -> bool:
    (left, right), (top, bottom) = (sorted(cells_xyxy[axis::2]) for axis in (0, 1))
    return right < view_xyxy[0] or left > view_xyxy[2] or bottom < view_xyxy[1] or top > view_xyxy[3]


def _view(map_size_hw: tuple[int, int], boxes: Sequence[BoxXYXY]) -> BoxXYXY:
    """The map and all `boxes`, or the map and what is next to it where they would dwarf it.

    There is room around them, and the view is never flatter than 4:1 or slimmer than 3:4.
    """
    height, width = map_size_hw
    map_xyxy, side = (-0.5, -0.5, width - 0.5, height - 0.5), max(map_size_hw)
    left, top, right, bottom = extent_xyxy([map_xyxy, *boxes])
    if max(-left, -top, right - width, bottom - height) > MAX_MAPS_AWAY * side:
        left, top, right, bottom = map_xyxy
        margin = float(MAPS_AROUND * side)
    else:
        margin = 0.06 * max(right - left, bottom - top)
    longest = max(right - left, bottom - top)
    pad_x = max(margin, (longest * 0.75 - (right - left)) / 2)
    pad_y = max(margin, (longest * 0.25 - (bottom - top)) / 2)
    return left - pad_x, top - pad_y, right + pad_x, bottom + pad_y


def extent_xyxy(boxes: Sequence[BoxXYXY]) -> BoxXYXY:
    """The smallest box around all `boxes`, inverted ones included."""
    x, y = ([value for box in boxes for value in box[axis::2]] for axis in (0, 1))
    return min(x), min(y), max(x), max(y)


def _grid_step(map_size_hw: tuple[int, int], view_xyxy: BoxXYXY) -> int:
    cell = PANEL_WIDTH / (view_xyxy[2] - view_xyxy[0])
    step = 1
    while step * cell < MIN_GRID_GAP or max(map_size_hw) > step * MAX_GRID_LINES:
        step *= 2
    return step


def _histogram(before: Tensor | None, after: Tensor | None) -> tuple[Bar, ...]:
    if before is None or not len(before):
        return ()
    counts_after = [None] * len(_BIN_LABELS) if after is None else _bin(after)
    return tuple(map(Bar, _BIN_LABELS, _bin(before), counts_after))


def _bin(coverage: Tensor) -> list[int]:
    """Counts [7]: exactly 0, five ranges in between, exactly 1."""
    known = coverage.detach().cpu().double()
    known = known[known.isfinite()]
    inner = torch.bucketize(known, torch.tensor(_BIN_EDGES, dtype=torch.float64), right=True) + 1
    index = torch.where(known <= 0, 0, torch.where(known >= 1, len(_BIN_LABELS) - 1, inner))
    return torch.bincount(index, minlength=len(_BIN_LABELS)).tolist()


def _rows(call: RoICall, rows: Sequence[int], before: Tensor | None, after: Tensor | None) -> tuple[Row, ...]:
    cells, rois = read_cells_xyxy(call), call.rois.detach().cpu()
    return tuple(
        Row(
            row=row,
            image=float(rois[row, 0]),
            box_xyxy=_box(rois[row, 1:]),
            cells_xyxy=_box(cells[row]),
            coverage_before=None if before is None else float(before[row]),
            coverage_after=None if after is None else float(after[row]),
        )
        for row in rows
    )


def _box(values: Tensor) -> BoxXYXY:
    x1, y1, x2, y2 = values.tolist()
    return x1, y1, x2, y2
