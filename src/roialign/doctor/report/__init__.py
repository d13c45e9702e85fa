"""Reports of what the doctor found: for terminals, for notebooks and as a page. What makes one is loaded with it."""

from __future__ import annotations

from os import PathLike

from roialign.doctor.findings import Report


def as_text(report: Report) -> str:
    """The report as `str` gives it."""
    from roialign.doctor.report import terminal

    return terminal.as_text(report)


def as_html(report: Report) -> str:
    """The report as a notebook shows it."""
    from roialign.doctor.report import notebook

    return notebook.as_html(report)


def save(report: Report, path: str | PathLike[str]) -> None:
    """Write the page to `path`."""
    from roialign.doctor.report import page

    page.save(report, path)
