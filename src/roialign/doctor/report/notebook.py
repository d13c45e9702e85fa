"""The report as a notebook shows it: words, lines to paste, and a picture of the first problem."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

from roialign.doctor.findings import Problem, Report
from roialign.doctor.report import words
from roialign.doctor.report.drawing import Drawing, drawing
from roialign.doctor.report.exhibit import PANEL_WIDTH, Exhibit, Panel
from roialign.doctor.report.page import environment
from roialign.doctor.report.pictures import within
from roialign.geometry import html

MOST_BYTES = 200_000
"""Size of the HTML of one report, whatever is in it."""
_MOST_PROBLEMS = 5
_MOST_ALTERNATIVES = 2
_LONGEST = 700  # signs of one text
_MARGIN, _TOP, _LEGEND_WIDTH, _LEGEND_HEIGHT = 12, 32, 240, 22  # units of the picture, about one pixel each


def as_html(report: Report) -> str:
    """HTML of at most `MOST_BYTES`, without script and without styles that other cells could feel."""
    report = Report(tuple(report.calls))  # of a program that goes on, what was found up to now
    problems = report.problems
    shown = problems[:_MOST_PROBLEMS]
    render = partial(
        environment().get_template("notebook.html").render,
        summary=words.summary(report),
        problems=[(problem, words.whereabouts(problem, report.examined), _call(problem)) for problem in shown],
        more=len(problems) - len(shown),
        most_alternatives=_MOST_ALTERNATIVES,
        longest=_LONGEST,
    )
    drawings = _drawings(problems[0]) if problems else []
    captions = _captions(drawings)
    room = MOST_BYTES - len(html.block(render(captions=captions, picture="")).encode())
    picture = _picture(drawings, room) if drawings else None
    return html.block(render(captions=captions if picture else [], picture=picture))


def _call(problem: Problem) -> str | None:
    return None if problem.diagnosis.call is None else words.call_text(problem.diagnosis.call)


def _drawings(problem: Problem) -> list[Drawing]:
    panels = Exhibit.of(problem).panels
    pictures = list(dict.fromkeys(panel.picture for panel in panels if panel.picture))
    return [drawing(panel, f"picture-{pictures.index(panel.picture)}" if panel.picture else None) for panel in panels]


def _captions(drawings: Sequence[Drawing]) -> list[str]:
    if not drawings:
        return []
    under = "the image" if drawings[0].panel.shows_image else "the mean magnitude of the features, dark where near zero"
    captions = [f"{one.panel.name}: {' '.join(one.caption)}" for one in drawings]
    return [*captions, f"The black rectangle is the feature map, over {under}; off the map samples are zero."]


def _picture(drawings: Sequence[Drawing], room: int) -> str | None:
    """The panels side by side as the data URI of an image, of at most `room` signs.

    A notebook draws an image apart from itself: no name or style in it can meet those of another cell.
    """
    legend = _legend([one.panel for one in drawings])
    bottom = _TOP + max(one.height for one in drawings) + _LEGEND_HEIGHT
    in_row = 2 * len(drawings)
    render = partial(
        environment().get_template("picture.svg").render,
        drawings=drawings,
        legend=legend,
        legends_in_row=in_row,
        legend_width=_LEGEND_WIDTH,
        legend_height=_LEGEND_HEIGHT,
        margin=_MARGIN,
        top=_TOP,
        bottom=bottom,
        width=_MARGIN + len(drawings) * (PANEL_WIDTH + _MARGIN),
        height=bottom + _LEGEND_HEIGHT * (-(-len(legend) // in_row) - 1) + 16,
    )
    pictures = {one.picture_id: one.panel.picture for one in drawings if one.picture_id and one.panel.picture}
    without = len(render(pictures=dict.fromkeys(pictures, "")))
    each = (room * 3 // 4 - without) // max(len(pictures), 1)
    smaller = ((name, within(uri, each)) for name, uri in pictures.items())
    svg = render(pictures={name: uri for name, uri in smaller if uri}).encode()
    uri = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return uri if len(uri) <= room else None


def _legend(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """Kinds of outlines in the panels, and what they are."""
    called = panels[0].name == "As called"
    entries = (
        (called, "called", "read, as called"),
        (bool(panels[0].meant), "meant", "meant"),
        (len(panels) > 1 or not called, "fixed", "read with the fix"),
        (any(not one.concerned for panel in panels for one in panel.reads), "other", "RoIs not concerned"),
    )
    return [(kind, label) for is_there, kind, label in entries if is_there]
