"""The words that the terminal and the page share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from roialign.doctor.findings import Fix, Problem, Report
from roialign.geometry.html import printable as printable
from roialign.ops.calls import RoICall

COVERAGE = (
    "Coverage is the share of a box's samples that lie on the feature map. "
    "Samples off the map are zero: at coverage 0 the whole feature is zero."
)


def summary(report: Report) -> str:
    """One line: what was examined and what came out."""
    examined = f"{counted(report.examined, 'RoI call')} examined"
    if not report.calls:
        return f"{examined}: none was seen, so nothing can be said."
    if report.ok:
        return f"{examined}, nothing wrong."
    severities = [problem.finding.severity for problem in report.problems]
    kinds = [(severities.count(severity), severity) for severity in ("error", "warning")]
    return f"{examined}: {' and '.join(counted(number, kind) for number, kind in kinds if number)}."


def invitation(fix: Fix) -> str:
    """What to do with the line of a fix, which calls what was passed `features` and `boxes`."""
    stand_ins = [name for name in ("features", "boxes") if re.search(rf"\b{name}\b", fix.code)]
    names = "names" if len(stand_ins) > 1 else "name"
    return f"paste this, with your {names} for {' and '.join(stand_ins)}" if stand_ins else "paste this"


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural where it must be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def whereabouts(problem: Problem, examined: int) -> str:
    """Where the call was made and how many calls there had the problem."""
    where = printable(problem.finding.call_site or "the call that was diagnosed")
    return where if examined == 1 else f"{where}, in {problem.count} of {counted(examined, 'call')} examined"


def call_text(call: RoICall) -> str:
    """The call with its arguments."""
    called = "" if call.operator == "roi_align" else f"{call.operator}: "
    seen = ", planes for channels" if call.operator == "roi_align_3d" else ""
    what = f"{called}{counted(len(call.rois), 'RoI')} on features {list(call.features_shape)}{seen}"
    if call.cells is None:
        place = f"spatial_scale={scale_text(call.spatial_scale)}"
        options = f"{place}, sampling_ratio={call.sampling_ratio}, aligned={call.aligned}"
    else:
        options = f"sampling_ratio={call.sampling_ratio}, {grid_text(call.cells)}"
    further = "".join(f", {name}={value}" for name, value in call.further if name not in ("aligned", "output_size"))
    return f"{what}, output_size={call.output_size_hw}, {options}{further}"


def grid_text(cells: tuple[float, float, float, float]) -> str:
    """A grid, from the scale and the shift of its rows and of its columns."""
    scale_y, shift_y, scale_x, shift_x = cells
    stride, offset = (1 / scale_y, 1 / scale_x), (shift_y / scale_y, shift_x / scale_x)
    return f"a grid of stride {box_text(stride)} and offset {box_text(offset)}, y first"


def scale_text(scale: float) -> str:
    """The scale, as 1 / stride where the stride is a whole number."""
    stride = 1 / scale if scale else math.inf
    whole = 1.5 < stride < 1e6 and math.isclose(stride, round(stride), rel_tol=1e-6)
    return f"1/{round(stride)}" if whole else f"{scale:.6g}"


def number(value: float) -> str:
    """A coordinate, rounded as far as a reader can use it."""
    digits = 3 if abs(value) < 1 else 4 if abs(value) < 1e4 else 6
    return f"{value:.{digits}g}"


def box_text(box_xyxy: Iterable[float]) -> str:
    return f"({', '.join(map(number, box_xyxy))})"


def coverage_text(coverage: float | None) -> str:
    """Two decimals; 0.00 and 1.00 are said only of what is exactly that."""
    if coverage is None or math.isnan(coverage):
        return "unknown"
    if 0 < coverage < 0.01:
        return "<0.01"
    return ">0.99" if 0.99 < coverage < 1 else f"{coverage:.2f}"


def change_text(fix: Fix, arrow: str = "->") -> str:
    """What the fix does to the mean coverage."""
    return f"coverage {coverage_text(fix.coverage_before)} {arrow} {coverage_text(fix.coverage_after)}"
