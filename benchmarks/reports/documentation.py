"""Writes docs/reports.md, the list of reports that the doctor is checked against.

Kept and fresh reports are not listed: whoever works on the doctor should not look at them.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import table

from .collection import entries
from .program import Kind, Reported

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"
_INTRODUCTION = """\
# What people reported

<!-- Made by python -m benchmarks.reports.documentation from benchmarks/reports/: change that. -->

The [doctor](doctor.md) is checked against what people did. Each of these programs is made from a report in a public
tracker, named by its repository and number: a small program with a network, a picture and boxes that does what the
person did, with what would have been right. Correct programs that look odd are included, because they should get no
error.

The reports have four parts. *Given* ones existed before the doctor weighed explanations, and *fitted* ones were looked
at while that was written: both are listed here. *Kept* ones were first run unseen when it was done, *fresh* ones after
the last tuning: these two are only counted. `benchmarks/results/reports.md` has how the doctor does on each, and
[How well it does](doctor.md#how-well-it-does) a summary.

```console
$ make bench-reports    # all of them, into benchmarks/results/reports.md
$ python -m benchmarks.reports --only "vision#2021" -v    # one, with the report as the terminal shows it
$ python -m benchmarks.reports --only "vision#2021" --right    # what would have been right: any error is false
```

A few programs are made twice, with coins and with blood smears. The latter need the BCCD data set in the folder named
by `ROIALIGN_BCCD`, and are left out without it. A new report is a function in `benchmarks/reports/`, in the part
*fitted*; `python -m benchmarks.reports --expect` writes what the tests expect of it.
"""
_HEADINGS: dict[Kind, str] = {
    "fault": "## Faults",
    "unseen": "## Undetectable faults, and no faults\n\nSilence is right here.",
    "healthy": "## Healthy programs",
}


def page() -> str:
    """The page as Markdown."""
    listed = entries("given", "fitted")
    parts = [_INTRODUCTION]
    for kind, heading in _HEADINGS.items():
        own = [entry.reported for entry in listed if entry.reported.kind == kind]
        parts += [f"{heading}\n", _table(own, with_right=kind != "healthy")]
    return "\n".join(parts)


def _table(reports: list[Reported], with_right: bool) -> str:
    name = "report" if with_right else "program"
    head = [name, "what was done", "what is right"] if with_right else [name, "what it does"]
    rows = [[one.name, one.what, one.right][: len(head)] for one in reports]
    return table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
