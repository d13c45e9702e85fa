"""The report as text for a terminal."""

from __future__ import annotations

import ast
import io

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from roialign.doctor.findings import Finding, Fix, Problem, Report
from roialign.doctor.report import words
from roialign.doctor.report.exhibit import concerned_rows

_ROIS_SHOWN = 3
_WIDEST = 100  # longer lines of prose are hard to read
_LABEL_WIDTH = 10
_STYLES = {"error": "bold red", "warning": "bold yellow"}


def as_text(report: Report, width: int = 80) -> str:
    """The report as plain text; no line is wider than `width`, except a line to paste that cannot be shorter."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # in a notebook rich would write into the cell's output in place of the file
        legacy_windows=False,
    )
    render(report, console)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def render(report: Report, console: Console) -> None:
    """Print the report on `console`, in its colours."""
    width = min(console.width, _WIDEST)
    style = "bold green" if report.calls and report.ok else "bold"
    console.print(Text(words.summary(report), style), width=width)
    if report.ok:
        return
    console.print(Text(words.COVERAGE, "dim"), width=width)
    for problem in report.problems:
        console.print()
        _render_problem(problem, report.examined, console, width)


def _render_problem(problem: Problem, examined: int, console: Console, width: int) -> None:
    finding = problem.finding
    heading = Text.assemble((f"{finding.code} {finding.severity}", _STYLES[finding.severity]), f": {finding.title}")
    heading.stylize("bold")
    console.print(heading, width=width)
    console.print(_facts(problem, examined), width=width)
    if finding.fix:
        _render_fix(finding.fix, console, width)
    advice = _advice(finding)
    console.print(advice, width=width)


def _facts(problem: Problem, examined: int) -> RenderableType:
    facts = _grid()
    facts.add_row("where", Text(words.whereabouts(problem, examined), "cyan"))
    if problem.diagnosis.call:
        facts.add_row("call", words.call_text(problem.diagnosis.call))
    facts.add_row("evidence", Text(words.printable(problem.finding.evidence)))
    rois = _rois(problem)
    if rois:
        facts.add_row("RoIs", Text("\n".join(rois)))
    return facts


def _rois(problem: Problem) -> list[str]:
    """The first RoIs concerned, one a line, and how many more there are."""
    rows, call, coverage = concerned_rows(problem), problem.diagnosis.call, problem.diagnosis.coverage
    lines = []
    for row in rows[:_ROIS_SHOWN]:
        line = f"row {row}"
        if call is not None:
            image, *box_xyxy = call.rois[row].tolist()
            line += f": box {words.box_text(box_xyxy)} of image {words.number(image)}"
        if coverage is not None and row < len(coverage):
            line += f", coverage {words.coverage_text(float(coverage[row]))}"
        lines.append(line)
    if len(rows) > _ROIS_SHOWN:
        lines.append(f"and {len(rows) - _ROIS_SHOWN} more")
    return lines


def _render_fix(fix: Fix, console: Console, width: int) -> None:
    lead = _grid()
    lead.add_row("fix", f"{words.invitation(fix)}:")
    console.print(lead, width=width)
    console.print()
    code = [part for line in fix.code.expandtabs(4).splitlines() for part in _broken(words.printable(line), width)]
    indent = 4 if max(map(len, code), default=0) + 4 <= width else 0
    for line in code:
        console.print(Text(" " * indent + line, "bold green"), soft_wrap=True)
    console.print()
    proof = _grid()
    proof.add_row("", f"{words.change_text(fix)} when run again with it")
    if fix.checked:
        proof.add_row("", fix.checked)
    console.print(proof, width=width)


def _broken(line: str, width: int) -> list[str]:
    """A line of code, cut between arguments where it is too long and still means the same when pasted."""
    if len(line) <= width:
        return [line]
    parts = [""]
    for argument in line.split(", "):
        longer = f"{parts[-1]}, {argument}" if parts[-1] else argument
        parts[-1:] = [longer] if len(longer) < width else [f"{parts[-1]},", f"    {argument}"]
    try:
        same = ast.dump(ast.parse("\n".join(parts))) == ast.dump(ast.parse(line))
    except SyntaxError:
        same = False
    return parts if same else [line]


def _advice(finding: Finding) -> RenderableType:
    advice = _grid()
    for place, other in enumerate(finding.alternatives):
        label = "also fits" if place == 0 else ""
        advice.add_row(label, Text(f"{words.printable(other.code)}\n({words.change_text(other)})"))
    if finding.decide:
        advice.add_row("decide", Text(words.printable(finding.decide)))
    advice.add_row("more", f"roialign explain {finding.code}")
    return advice


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1), pad_edge=True)
    grid.add_column(width=_LABEL_WIDTH, style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
