"""Reports of what the doctor found: for the terminal and as a page. What they are made with is loaded when one is."""

from __future__ import annotations

from os import PathLike

from roialign.doctor.findings import Report


def as_text(report: Report) -> str:
    """The report as `str` gives it."""
    from roialign.doctor.report import terminal

    return terminal.as_text(report)


def save(report: Report, path: str | PathLike[str]) -> None:
    """Write the page to `path`."""
    from roialign.doctor.report import page

    page.save(report, path)
