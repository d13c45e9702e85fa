"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roialign.doctor.catalogue import CATALOGUE, Entry
from roialign.doctor.findings import Finding, Fix, Problem, Report
from roialign.doctor.report import words
from roialign.doctor.report.drawing import Drawing, drawing
from roialign.doctor.report.exhibit import PANEL_WIDTH, Exhibit
from roialign.doctor.report.playground import MAX_BINS, Values, playground
from roialign.geometry.html import shortened
from roialign.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_PROBLEMS = 50  # shown with pictures; of more there is a table
_FOLDER = Path(__file__).parent
_STYLES = ("page.css", "figures.css", "playground.css")
_SCRIPTS = ("roi_align.js", "table.js", "pooled.js", "stage.js", "figure.js", "page.js")
_MAX_SITES = 50
_OPEN_ROWS = 12  # tables of more RoIs start folded


@dataclass(frozen=True)
class _Section:
    """One problem as the template shows it."""

    problem: Problem
    finding: Finding
    entry: Entry
    whereabouts: str
    call: str | None
    exhibit: Exhibit
    drawings: list[Drawing]
    most: int
    """The longest bar of the histogram, in RoIs."""
    playground: dict[str, Any] | None
    """The interactive figure's data."""
    pickable: dict[int, int]
    """The rows that the interactive figure can show, and where it has them."""


@dataclass(frozen=True)
class _Site:
    """One line of code that made RoI calls."""

    where: str
    calls: int
    rois: int
    and_more: bool
    """Whether there were more RoIs, in calls that were only counted."""
    coverage: float | None
    codes: list[str]


@dataclass
class _Shared:
    """What a page holds once, however many sections show it."""

    values: Values = field(default_factory=Values)
    pictures: dict[str, str] = field(default_factory=dict)
    """The id of each picture, by its data URI."""

    def picture_id(self, uri: str | None) -> str | None:
        return None if uri is None else self.pictures.setdefault(uri, f"picture-{len(self.pictures) + 1}")


def save(report: Report, path: str | PathLike[str]) -> None:
    """Write the page to `path`."""
    Path(path).write_text(as_html(report), encoding="utf-8", errors="xmlcharrefreplace")


def environment() -> Environment:
    """What the templates of this folder are rendered with; all that they are given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        counted=words.counted,
        number=words.number,
        box_text=words.box_text,
        about_coverage=words.COVERAGE,
        panel_width=PANEL_WIDTH,
        open_rows=_OPEN_ROWS,
        max_bins=MAX_BINS,
        version=__version__,
    )
    made.filters.update(
        coverage=words.coverage_text,
        printable=words.printable,
        shortened=shortened,
        proof=_proof,
        invitation=words.invitation,
        headline=_headline,
        sort_key=_sort_key,
    )
    return made


def as_html(report: Report) -> str:
    """The whole page."""
    sites, shared = _sites(report), _Shared()
    problems = report.problems
    sections = [_section(problem, report.examined, shared) for problem in problems[:MAX_PROBLEMS]]
    figures = {"maps": shared.values.maps, "figures": [section.playground for section in sections]}
    css, script = _joined(_STYLES), _joined(_SCRIPTS)
    return (
        environment()
        .get_template("page.html")
        .render(
            summary=words.summary(report),
            sections=sections,
            further=[(problem, words.whereabouts(problem, report.examined)) for problem in problems[MAX_PROBLEMS:]],
            sites=sites[:_MAX_SITES],
            sites_left_out=max(len(sites) - _MAX_SITES, 0),
            pictures=shared.pictures,
            figures=_json_in_html(figures),
            css=css,
            script=script,
            css_hash=_csp_hash(css),
            script_hash=_csp_hash(script),
        )
    )


def _joined(names: tuple[str, ...]) -> str:
    return "\n" + "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)


def _csp_hash(text: str) -> str:
    """What a Content-Security-Policy calls this inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json_in_html(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def _headline(text: str) -> str:
    """The title with a capital, unless it begins with a name of code or of a coordinate."""
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() and len(first) > 1 else text


def _proof(fix: Fix) -> str:
    """What running the operator again with the fix showed."""
    if words.coverage_text(fix.coverage_before) != words.coverage_text(fix.coverage_after):
        return f"Mean {words.change_text(fix, '→')} when run again with it. {_checked(fix)}".rstrip()
    return (
        f"Run again with it, the mean coverage is {words.coverage_text(fix.coverage_after)} as before: as much of each "
        f"RoI is read, from other places of the image or in another way. {_checked(fix)}"
    ).rstrip()


def _checked(fix: Fix) -> str:
    return f"{fix.checked}." if fix.checked else ""


def _sort_key(value: float | None) -> str:
    """A number as a script reads it."""
    if value is None or math.isnan(value):
        return "nan"
    return repr(float(value)) if math.isfinite(value) else f"{'-' if value < 0 else ''}Infinity"


def _sites(report: Report) -> list[_Site]:
    """The lines that made calls, in the order in which they first did."""
    made: dict[str, _Site] = {}
    for diagnosis in report.calls:
        where = words.printable(diagnosis.call_site or "place not known")
        site = made.get(where) or _Site(where, 0, 0, False, None, [])
        lowest = [] if site.coverage is None else [site.coverage]
        if diagnosis.coverage is not None and len(diagnosis.coverage):
            lowest.append(float(diagnosis.coverage.min()))
        codes = [*site.codes, *(finding.code for finding in diagnosis.findings)]
        made[where] = _Site(
            where,
            site.calls + diagnosis.times,
            site.rois + (0 if diagnosis.call is None else len(diagnosis.call.rois)),
            site.and_more or diagnosis.times > 1,
            min(lowest, default=None),
            list(dict.fromkeys(codes)),
        )
    return list(made.values())


def _section(problem: Problem, examined: int, shared: _Shared) -> _Section:
    exhibit, call = Exhibit.of(problem), problem.diagnosis.call
    play = playground(problem, exhibit.panels[0], shared.values) if exhibit.panels else None
    return _Section(
        problem=problem,
        finding=problem.finding,
        entry=CATALOGUE[problem.finding.code],
        whereabouts=words.whereabouts(problem, examined),
        call=None if call is None else words.call_text(call),
        exhibit=exhibit,
        drawings=[drawing(panel, shared.picture_id(panel.picture)) for panel in exhibit.panels],
        most=max((count for bar in exhibit.histogram for count in (bar.before, bar.after or 0)), default=0),
        playground=play,
        pickable={row: place for place, row in enumerate(play["rows"])} if play else {},
    )
