"""What the doctor says of healthy calls: how many it examined, and every finding, which is one too many."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import roialign
from roialign.doctor.findings import Report

from .doctor_healthy import Draw, Healthy
from .doctor_pipelines import Pipeline, Scene
from .doctor_watched import ALONE, KNOWN, SEEN, Alarm, alarms_in, grids_kept, pooled
from .report import table


@dataclass
class Watched:
    """A healthy program that was run once."""

    program: str
    calls: int = 0
    """How many calls it made, each of which was examined in all ways."""
    alarms: list[Alarm] = field(default_factory=list)


def watch_healthy(program: Healthy, draw: Draw, rng: random.Random) -> Watched:
    """Run a healthy program under `watch()` and `watch(model)` at once, and look at its calls alone."""
    found = Watched(program.name)
    given: list[dict[str, Any]] = []
    with (
        roialign.set_policy("ignore"),
        grids_kept(),
        torch.no_grad(),
        roialign.watch() as seen,
        roialign.watch(program.model) as known,
    ):
        for call in program.calls(draw, rng):
            call.make()
            given.append(call.arguments())
    found.calls = len(given)
    alone = [roialign.diagnose(**one) for one in given]
    for mode, calls in ((ALONE, alone), (SEEN, seen.calls), (KNOWN, known.calls)):
        found.alarms += alarms_in(mode, calls)
    return found


def watch_pipeline(pipeline: Pipeline, scene: Scene, rng: random.Random) -> Watched:
    """The same for the healthy half of a pipeline that faults are made in."""
    with (
        roialign.set_policy("ignore"),
        grids_kept(),
        torch.no_grad(),
        roialign.watch() as seen,
        roialign.watch(pipeline.model) as known,
    ):
        made = pooled(pipeline, pipeline.look(scene, rng), {SEEN: seen, KNOWN: known})
    found = Watched(pipeline.name, max(len(calls) for calls in made.calls.values()))
    with torch.no_grad():
        calls = {**made.calls, ALONE: made.alone()}
    for mode, some in calls.items():
        found.alarms += alarms_in(mode, some)
    return found


def watch_whole(pipeline: Pipeline, scene: Scene) -> Watched:
    """The same for all of a healthy detector, whose calls cannot be looked at alone."""
    calls, reports = check_whole(pipeline, scene)
    found = Watched(f"{pipeline.name}, whole", calls)
    for mode, report in reports.items():
        found.alarms += alarms_in(mode, report.calls)
    return found


def check_whole(pipeline: Pipeline, scene: Scene) -> tuple[int, dict[str, Report]]:
    """How many RoI calls all of a healthy model makes, and what is said of them, by mode."""
    reports: dict[str, Report] = {}
    for mode, model in ((SEEN, None), (KNOWN, pipeline.model)):
        with torch.no_grad(), roialign.watch(model) as report:
            if pipeline.whole is not None:
                pipeline.whole(scene)
        reports[mode] = report
    return len(reports[SEEN].calls), reports


def section(watched: Sequence[Watched]) -> str:
    """The healthy calls as Markdown: how many, and what was found in them, by code and by program."""
    alarms = [alarm for one in watched for alarm in one.alarms]
    total = sum(one.calls for one in watched)
    counts = {severity: sum(alarm.severity == severity for alarm in alarms) for severity in ("error", "warning")}
    calls: Counter[str] = Counter()
    for one in watched:
        calls[one.program] += one.calls
    parts = [
        "## Healthy calls\n",
        f"{total} calls of {len(calls)} healthy programs, each examined in each way that applies: {counts['error']} "
        f"errors (target: 0) and {counts['warning']} warnings.\n",
    ]
    if alarms:
        by_code = Counter((alarm.code, alarm.severity, alarm.mode) for alarm in alarms)
        parts.append(table(["code", "severity", "evidence", "times"], ([*key, str(n)] for key, n in _most(by_code))))
    rows = []
    for program, count in calls.items():
        own = [alarm for one in watched if one.program == program for alarm in one.alarms]
        told = Counter(f"{alarm.code} {alarm.severity}" for alarm in own)
        rows.append([program, str(count), ", ".join(f"{what} {n}" for what, n in _most(told)) or "none"])
    parts.append(table(["program", "calls", "findings, in all ways together"], rows))
    examples = {(alarm.code, alarm.mode, one.program): alarm for one in watched for alarm in one.alarms}
    if examples:
        parts.append("One of each:\n")
        parts.append(
            "".join(
                f"- {code} ({alarm.severity}), {mode}, {program}: {alarm.evidence}\n"
                for (code, mode, program), alarm in sorted(examples.items())
            )
        )
    return "\n".join(parts)


def _most(counted: Counter[str] | Counter[tuple[str, str, str]]) -> list[tuple[object, int]]:
    return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
