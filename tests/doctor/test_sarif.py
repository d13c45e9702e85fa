"""`as_sarif` against the structure that SARIF 2.1.0 asks for, written down here from the standard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roialign import diagnose
from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.findings import Diagnosis, Finding, Report
from roialign.doctor.sarif import as_sarif

LEVELS = ("none", "note", "warning", "error")
MOST_OF_A_DESCRIPTION = 1024  # what GitHub takes
Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def uri(value: Any) -> bool:
    return text(value) and re.fullmatch(r"[A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]+", value) is not None


def at_least(least: int) -> Check:
    return lambda value: type(value) is int and value >= least


# Property -> what it must be; "!" marks those that the standard requires. Nothing else is allowed in the object.
MESSAGE = {"text!": text, "markdown": text}
ARTIFACT = {"uri": uri, "uriBaseId": text, "description": MESSAGE}
RULE = {
    "id!": text,
    "shortDescription": MESSAGE,
    "fullDescription": MESSAGE,
    "help": MESSAGE,
    "defaultConfiguration": {"level": LEVELS.__contains__},
}
LOCATION = {"physicalLocation": {"artifactLocation": ARTIFACT, "region": {"startLine": at_least(1)}}}
RESULT = {
    "ruleId": text,
    "ruleIndex": at_least(0),
    "level": LEVELS.__contains__,
    "message!": MESSAGE,
    "locations": [LOCATION],
    "occurrenceCount": at_least(1),
}
LOG = {
    "$schema": uri,
    "version!": "2.1.0".__eq__,
    "runs!": [
        {
            "tool!": {"driver!": {"name!": text, "version": text, "rules": [RULE]}},
            "invocations": [
                {"executionSuccessful!": lambda value: type(value) is bool, "exitCode": at_least(-(2**31))}
            ],
            "originalUriBaseIds": {"%SRCROOT%": ARTIFACT},
            "results": [RESULT],
        }
    ],
}


def faults(value: Any, wanted: Any, path: str = "$") -> list[str]:
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return [f"{path} is no array"]
        return [fault for place, item in enumerate(value) for fault in faults(item, wanted[0], f"{path}[{place}]")]
    if not isinstance(wanted, dict):
        return [] if wanted(value) else [f"{path} is {value!r}"]
    if not isinstance(value, dict):
        return [f"{path} is no object"]
    known = {name.rstrip("!"): inner for name, inner in wanted.items()}
    missing = [f"{path} has no {name[:-1]}" for name in wanted if name.endswith("!") and name[:-1] not in value]
    foreign = [f"{path}.{name} is not of the standard" for name in value if name not in known]
    inside = [f for name in value if name in known for f in faults(value[name], known[name], f"{path}.{name}")]
    return missing + foreign + inside


def faulty(site: str | None = "detector.py:12") -> Diagnosis:
    boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]
    diagnosis = diagnose(torch.ones(1, 8, 64, 64), boxes, 7)
    return diagnosis if site is None else diagnosis.at(site)


def saying(evidence: str, code: str = "RA204") -> Diagnosis:
    return Diagnosis((Finding(code, evidence),), None).at("a.py:1")


def log_of(*calls: Diagnosis, status: int = 0) -> Any:
    log = json.loads(json.dumps(as_sarif(Report(calls), status)))
    assert faults(log, LOG) == []
    return log


def results(*calls: Diagnosis) -> Any:
    return log_of(*calls)["runs"][0]["results"]


def test_the_structure_is_that_of_the_standard() -> None:
    log_of()
    log_of(faulty(), faulty("other.py:3"), faulty(None), faulty("<string>:1"), saying("{0} [x](1)"), status=130)


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.pop("version"),
        lambda log: log["runs"][0]["tool"]["driver"].pop("name"),
        lambda log: log["runs"][0]["results"][0].pop("message"),
        lambda log: log["runs"][0]["results"][0].update(level="fatal"),
        lambda log: log["runs"][0]["results"][0].update(count=1),
        lambda log: log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
    ],
)
def test_the_structure_can_be_wrong(change: Callable[[Any], object]) -> None:
    log = as_sarif(Report([faulty()]))
    change(log)
    assert faults(log, LOG)


def test_every_code_is_a_rule_with_its_help() -> None:
    rules = log_of()["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CATALOGUE)
    for rule in rules:
        entry = CATALOGUE[rule["id"]]
        assert rule["shortDescription"]["text"] == entry.title
        assert rule["defaultConfiguration"]["level"] == entry.severity
        for help_text in (rule["help"]["text"], rule["help"]["markdown"]):
            assert all(part in help_text for part in (entry.meaning, entry.fix, entry.example))
        assert len(rule["fullDescription"]["text"]) <= MOST_OF_A_DESCRIPTION


def test_a_result_points_at_the_line_and_says_what_to_type() -> None:
    found = results(faulty(), faulty(), saying("3 of 5 boxes are empty."))
    first = found[0]
    assert [result["ruleId"] for result in found] == ["RA101", "RA204"]
    assert [result["level"] for result in found] == ["error", "warning"]
    assert [result["occurrenceCount"] for result in found] == [2, 1]
    assert all(list(CATALOGUE)[result["ruleIndex"]] == result["ruleId"] for result in found)
    finding = faulty().findings[0]
    assert finding.fix is not None
    assert first["message"]["text"].startswith(f"{finding.evidence} Fix: {finding.fix.code} (coverage ")
    assert "Also fits: roi_align(" in first["message"]["text"]
    assert first["message"]["text"].endswith(str(finding.decide))
    assert first["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "detector.py", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 12},
            }
        }
    ]


@pytest.mark.parametrize(
    ("site", "written"),
    [
        ("models/my net.py:7", {"uri": "models/my%20net.py", "uriBaseId": "%SRCROOT%"}),
        ("a:b#ü.py:7", {"uri": "a%3Ab%23%C3%BC.py", "uriBaseId": "%SRCROOT%"}),
        (f"{Path.cwd().anchor}srv/net.py:7", {"uri": (Path(Path.cwd().anchor) / "srv/net.py").as_uri()}),
    ],
)
def test_paths_become_uris(site: str, written: dict[str, str]) -> None:
    assert results(faulty(site))[0]["locations"][0]["physicalLocation"]["artifactLocation"] == written


@pytest.mark.parametrize("site", ["<stdin>:3", "<string>:1", "unknown", "x.py:0", "x.py", None])
def test_a_place_that_is_no_file_is_no_location(site: str | None) -> None:
    (result,) = results(faulty(site))
    assert result["locations"] == []
    assert result["message"]["text"].startswith(f"At {site}: The boxes" if site else "The boxes")


def test_braces_and_control_characters_are_escaped() -> None:
    assert results(saying("a {0} \x1b[31m"))[0]["message"]["text"] == "a {{0}} \\x1b[31m"


@pytest.mark.parametrize(("status", "successful"), [(0, True), (1, False), (130, False)])
def test_a_program_that_failed_is_said_to_have(status: int, successful: bool) -> None:
    expected = {"executionSuccessful": successful, "exitCode": status}
    assert log_of(faulty(), status=status)["runs"][0]["invocations"] == [expected]


def test_a_diagnosis_without_findings_is_no_result() -> None:
    assert results(replace(faulty(), findings=())) == []
