"""The report as SARIF 2.1.0, the format in which code hosts and editors take in what tools find.

Source: OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", 2020.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from roialign.doctor.catalogue import CATALOGUE, Entry
from roialign.doctor.findings import Finding, Fix, Problem, Report
from roialign.doctor.report import words
from roialign.version import __version__

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"


def as_sarif(report: Report, exit_status: int = 0) -> dict[str, Any]:
    """The report as a SARIF log: one rule for each code of the catalogue, one result for each problem.

    Args:
        report: of a program, or of one call.
        exit_status: of the program; any but 0 says that the report may be of a part of it only.

    Example:
        >>> from roialign.doctor.findings import Report
        >>> as_sarif(Report([]))["version"]
        '2.1.0'
    """
    places = {code: place for place, code in enumerate(CATALOGUE)}
    run = {
        "tool": {
            "driver": {"name": "roialign", "version": __version__, "rules": [_rule(e) for e in CATALOGUE.values()]}
        },
        "invocations": [{"executionSuccessful": exit_status == 0, "exitCode": exit_status}],
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder in which the program was started."}}},
        "results": [_result(problem, places) for problem in report.problems],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(entry: Entry) -> dict[str, Any]:
    help_text = f"{entry.meaning}\n\nWhat to do: {entry.fix}\n\nExample:\n\n{entry.example}"
    help_markdown = f"{entry.meaning}\n\n**What to do.** {entry.fix}\n\n```python\n{entry.example}\n```"
    return {
        "id": entry.code,
        "shortDescription": {"text": entry.title},
        "fullDescription": {"text": entry.meaning},
        "help": {"text": help_text, "markdown": help_markdown},
        "defaultConfiguration": {"level": entry.severity},
    }


def _result(problem: Problem, places: dict[str, int]) -> dict[str, Any]:
    finding = problem.finding
    location = _location(finding.call_site)
    return {
        "ruleId": finding.code,
        "ruleIndex": places[finding.code],
        "level": finding.severity,
        "message": {"text": _message(finding, placed=location is not None)},
        "locations": [location] if location else [],
        "occurrenceCount": problem.count,
    }


def _message(finding: Finding, placed: bool) -> str:
    parts = [finding.evidence]
    if not placed and finding.call_site:
        parts.insert(0, f"At {finding.call_site}:")
    if finding.fix:
        parts.append(f"Fix: {_fix_text(finding.fix)}.")
    parts += [f"Also fits: {_fix_text(other)}." for other in finding.alternatives]
    if finding.decide:
        parts.append(finding.decide)
    text = words.printable(" ".join(parts))
    return text.replace("{", "{{").replace("}", "}}")  # single braces are placeholders in a SARIF message


def _fix_text(fix: Fix) -> str:
    return f"{fix.code} ({words.change_text(fix)})"


def _location(call_site: str | None) -> dict[str, Any] | None:
    """The line of a file; None for a place that is no file, such as "<string>:3"."""
    path, _, line = (call_site or "").rpartition(":")
    if not path or path.startswith("<") or not line.isdecimal() or int(line) < 1:
        return None
    file = PurePath(path)
    artifact = {"uri": file.as_uri()} if file.is_absolute() else {"uri": quote(file.as_posix()), "uriBaseId": _ROOT}
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": int(line)}}}
