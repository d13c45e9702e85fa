"""A panel of an exhibit as the attributes of an SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roialign.doctor.report import words
from roialign.doctor.report.exhibit import PANEL_WIDTH, BoxXYXY, Outline, Panel, extent_xyxy

_MAP_LABEL_WIDTH = 300
_SMALL_MAP = 60
_ARROW_INSET = 12
_MANY = 1000


@dataclass(frozen=True)
class Shape:
    """One RoI as a path, and what it says when pointed at."""

    path: str
    title: str
    concerned: bool


@dataclass(frozen=True)
class Drawing:
    """A panel as the attributes of its SVG; `cells_view` and the paths in cells, the rest in units."""

    panel: Panel
    picture_id: str | None
    height: float
    cells_view: str
    is_small: bool
    """Whether the map is too small for thick lines."""
    grid: str
    reads: list[Shape]
    meant: list[Shape]
    samples: str
    arrow: str | None
    map_label: str
    map_label_xy: tuple[float, float]
    caption: list[str]


def drawing(panel: Panel, picture_id: str | None) -> Drawing:
    """What the template writes for `panel`; `picture_id` is that of its picture on the page."""
    left, top, right, bottom = panel.view_xyxy
    unit = PANEL_WIDTH / (right - left)
    height, width = panel.map_size_hw
    x1, y1 = (-0.5 - left) * unit, (-0.5 - top) * unit
    map_box = (x1, y1, x1 + width * unit, y1 + height * unit)
    view_height = (bottom - top) * unit
    return Drawing(
        panel=panel,
        picture_id=picture_id,
        height=round(view_height, 1),
        cells_view=_numbers((left, top, right - left, bottom - top)),
        is_small=max(map_box[2] - map_box[0], map_box[3] - map_box[1]) < _SMALL_MAP,
        grid=_grid(panel),
        reads=_shapes(panel.reads, panel),
        meant=_shapes(panel.meant, panel),
        samples="".join(f"M{_numbers(point)}h0" for point in panel.samples_xy),
        arrow=_arrow(panel, map_box, view_height, unit) if panel.far else None,
        map_label=_map_label(panel),
        map_label_xy=(min(map_box[0], PANEL_WIDTH - _MAP_LABEL_WIDTH), map_box[1] - 7),
        caption=_caption(panel),
    )


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _grid(panel: Panel) -> str:
    """The borders between cells inside the map."""
    height, width = panel.map_size_hw
    columns = range(panel.grid_step, width, panel.grid_step)
    rows = range(panel.grid_step, height, panel.grid_step)
    vertical = "".join(f"M{column - 0.5} -0.5v{height}" for column in columns)
    return vertical + "".join(f"M-0.5 {row - 0.5}h{width}" for row in rows)


def _shapes(outlines: Sequence[Outline], panel: Panel) -> list[Shape]:
    """Paths of the outlines within reach of the view; browsers draw larger numbers wrongly."""
    left, top, right, bottom = panel.view_xyxy
    reach = 2 * max(right - left, bottom - top)
    shapes = []
    for outline in outlines:
        if outline in panel.far:
            continue
        x1, y1, x2, y2 = outline.cells_xyxy
        x1, x2 = (min(max(x, left - reach), right + reach) for x in sorted((x1, x2)))
        y1, y2 = (min(max(y, top - reach), bottom + reach) for y in sorted((y1, y2)))
        path = f"M{_numbers((x1, y1))}H{x2:.6g}V{y2:.6g}H{x1:.6g}Z"
        shapes.append(Shape(path, f"row {outline.row}: {_cells(outline.cells_xyxy)}", outline.concerned))
    return shapes


def _cells(cells_xyxy: BoxXYXY) -> str:
    return f"cells {words.box_text(cells_xyxy[:2])} to {words.box_text(cells_xyxy[2:])}"


def _arrow(panel: Panel, map_box: BoxXYXY, view_height: float, unit: float) -> str:
    """A line from the map towards the first RoI that is too far off, up to the border of the view."""
    x1, y1, x2, y2 = panel.far[0].cells_xyxy
    start_x, start_y = (map_box[0] + map_box[2]) / 2, (map_box[1] + map_box[3]) / 2
    step_x = ((x1 + x2) / 2 - panel.view_xyxy[0]) * unit - start_x
    step_y = ((y1 + y2) / 2 - panel.view_xyxy[1]) * unit - start_y
    limit_x = PANEL_WIDTH - _ARROW_INSET if step_x > 0 else _ARROW_INSET
    limit_y = view_height - _ARROW_INSET if step_y > 0 else _ARROW_INSET
    reaches = [
        (limit - start) / step
        for start, step, limit in ((start_x, step_x, limit_x), (start_y, step_y, limit_y))
        if step
    ]
    end = min(reaches, default=0.0)
    points = [(start_x + part * end * step_x, start_y + part * end * step_y) for part in (0.55, 1.0)]
    return f"M{_numbers(points[0])}L{_numbers(points[1])}"


def _map_label(panel: Panel) -> str:
    height, width = panel.map_size_hw
    step = f", a line every {panel.grid_step}" if panel.grid_step > 1 else ""
    return f"map: {width} x {height} cells{step}"


def _caption(panel: Panel) -> list[str]:
    height, width = panel.map_size_hw
    lines = []
    if panel.reads:
        extent = _cells(extent_xyxy([outline.cells_xyxy for outline in panel.reads]))
        lines.append(f"Reads {extent}; the map ends at cell ({width - 1}, {height - 1}).")
    if panel.coverage is not None:
        lines.append(f"Mean coverage {words.coverage_text(panel.coverage)}.")
    if panel.likelier is not None:
        times = f"{panel.likelier:.0f}" if panel.likelier < _MANY else f"more than {_MANY}"
        lines.append(
            f"These boxes follow the edges of the image: {times} times as likely as those passed to be drawn around "
            "things in it."
        )
    if panel.far:
        first, more = panel.far[0], len(panel.far) - 1
        who = f" and {words.counted(more, 'other')} lie" if more else " lies"
        lines.append(f"Row {first.row}, at {_cells(first.cells_xyxy)},{who} off the picture, where the arrow points.")
    if len(panel.reads) < panel.rois - panel.undrawable:
        lines.append(f"Drawn: {len(panel.reads)} of {words.counted(panel.rois, 'RoI')}, all of image {panel.image}.")
    if panel.undrawable:
        lines.append(f"{words.counted(panel.undrawable, 'RoI')} without finite coordinates cannot be drawn.")
    return lines
