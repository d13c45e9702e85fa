"""One program of the benchmark: its healthy calls, its faulty ones, and what the doctor says of both."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import roialign
from roialign.doctor.findings import Diagnosis, Finding, Report

from .doctor_faults import Fault
from .doctor_fixes import is_right, pasted, repaired, within_a_pixel
from .doctor_pipelines import Intake, Pipeline, Scene
from .doctor_watched import ALONE, KNOWN, SEEN, Alarm, Run, alarms_in, grids_kept, pooled, problems

LEAST_CHANGE = 0.05


@dataclass(frozen=True)
class Said:
    """A problem that the doctor reports."""

    code: str
    severity: str
    odds: float | None
    """None for what was seen and not weighed."""


@dataclass(frozen=True)
class Verdict:
    """What the doctor said of a faulty call, or of all of a program, in one mode."""

    said: tuple[Said, ...] = ()
    """In the order of the report."""
    fix_offered: bool = False
    """Whether the first finding has a right code and a fix."""
    fix_right: bool = False
    """Whether the output of the call that was proven equals the healthy one."""
    line_right: bool = False
    """Whether the output with the fix's line pasted into the program does."""
    line: str = ""
    evidence: str = ""
    decide: str = ""

    @property
    def codes(self) -> list[str]:
        return [one.code for one in self.said]

    @property
    def first(self) -> str:
        return self.said[0].code if self.said else "nothing"


@dataclass
class Case:
    """One fault in one pipeline."""

    fault: str
    codes: tuple[str, ...]
    """Those that are right, the likeliest first."""
    pipeline: str
    boxes: int
    needs_more: bool = False
    """Whether the arguments of the call cannot show the fault."""
    hidden: bool = False
    """Whether no number shows the fault, only the picture."""
    change: float = math.inf
    """The largest relative L2 difference of a RoI's features from the healthy ones; infinite where the call raises or
    the shapes differ."""
    reach_xy: tuple[float, float] = (math.nan, math.nan)
    """How far the faulty boxes reach across the image."""
    oblong: float = 1.0
    """The longer side of the image over the shorter."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return self.codes[0]

    @property
    def harmful(self) -> bool:
        return self.change > LEAST_CHANGE

    def verdict(self, mode: str) -> Verdict | None:
        return self.verdicts.get(mode)


@dataclass
class Program:
    """One fault in a program that pools from several photographs, by the same line of code."""

    cases: list[Case]
    """One for each photograph."""
    verdicts: dict[str, Verdict]
    """What the report of the whole program says."""
    healthy_calls: int
    alarms: list[Alarm]
    """What was found before the fault was made."""

    @property
    def fault(self) -> str:
        return self.cases[0].fault

    @property
    def codes(self) -> tuple[str, ...]:
        return self.cases[0].codes

    @property
    def code(self) -> str:
        return self.codes[0]

    @property
    def harmful(self) -> bool:
        return any(case.harmful for case in self.cases)

    @property
    def hidden(self) -> bool:
        return all(case.hidden for case in self.cases)

    def verdict(self, mode: str) -> Verdict | None:
        return self.verdicts.get(mode)


def run_program(pipeline: Pipeline, fault: Fault, scenes: Sequence[Scene], seed: int, rows: bool = False) -> Program:
    """Run it healthily, then with the fault, each under `watch()` and `watch(model)` at once, and look at its calls
    alone; `rows`: boxes are handed over as [K, 5]."""
    healthy = _runs(pipeline, None, scenes, seed, rows)[0]
    faulty, whole = _runs(pipeline, fault, scenes, seed, rows)
    program = Program([], {}, 0, [])
    by_hand = (ALONE,) if faulty[0][0].grid is None else (ALONE, KNOWN)  # the modes of which no watch says anything
    whole |= {mode: [] for mode in by_hand}
    for scene, (_, before), (intake, after) in zip(scenes, healthy, faulty, strict=True):
        with roialign.set_policy("ignore"), torch.no_grad():
            case, calls = _case(pipeline, fault, scene, intake, before, after)
            for mode in by_hand:
                whole[mode] += calls.get(mode, [])
            program.cases.append(case)
            program.healthy_calls += max(1, len(before.calls[SEEN]))
            for mode, some in {**before.calls, ALONE: before.alone()}.items():
                program.alarms += alarms_in(mode, some)
    if not whole[ALONE]:
        del whole[ALONE]
    program.verdicts = {mode: _of_the_program(program.cases, mode, some) for mode, some in whole.items()}
    return program


def _runs(
    pipeline: Pipeline, fault: Fault | None, scenes: Sequence[Scene], seed: int, rows: bool
) -> tuple[list[tuple[Intake, Run]], dict[str, list[Diagnosis]]]:
    """One run of the program over all scenes, the fault being the same in each: each pooling, watched for itself, and
    what one watch over all of it says, by mode."""
    made = []
    with ExitStack() as stack:
        for held in (roialign.set_policy("ignore"), grids_kept()):
            stack.enter_context(held)
        over_all: dict[str, Report] = {
            SEEN: stack.enter_context(roialign.watch()),
            KNOWN: stack.enter_context(roialign.watch(pipeline.model)),
        }
        for scene in scenes:
            with roialign.watch() as seen, roialign.watch(pipeline.model) as known:
                with torch.no_grad():
                    intake = replace(pipeline.look(scene, random.Random(seed)), rows=rows)
                    if fault is not None:
                        intake = fault.make(intake, random.Random(seed + 1))
                made.append((intake, pooled(pipeline, intake, {SEEN: seen, KNOWN: known})))
    raised = {mode: [one for _, run in made for one in run.raised] for mode in over_all}
    whole = {mode: [*report.calls, *raised[mode]] for mode, report in over_all.items()}
    return made, whole


def _case(
    pipeline: Pipeline, fault: Fault, scene: Scene, intake: Intake, before: Run, after: Run
) -> tuple[Case, dict[str, list[Diagnosis]]]:
    """The case, and the diagnoses of its calls by mode."""
    right = intake.healthy() if intake.healthy else before.output
    if right is None:
        raise RuntimeError(f"{pipeline.name}: the healthy call raises")
    calls, alone = dict(after.calls), after.alone()
    if alone:
        calls[ALONE] = alone
    if intake.grid is not None:
        calls[KNOWN] = [roialign.diagnose(**one, grid=intake.grid) for one in after.given]
    case = Case(fault.name, fault.codes, pipeline.name, len(scene.boxes_xyxy), fault.needs_more, fault.hidden(intake))
    case.verdicts = {mode: _verdict(pipeline, fault, intake, some, right) for mode, some in calls.items()}
    case.change = math.inf if fault.changes_output else _change(after.output, right)
    case.reach_xy, case.oblong = _reach(intake), max(intake.frame_hw) / min(intake.frame_hw)
    return case, calls


def _said(found: Sequence[Finding]) -> tuple[Said, ...]:
    return tuple(Said(one.code, one.severity, one.odds) for one in found)


def _verdict(pipeline: Pipeline, fault: Fault, intake: Intake, calls: Sequence[Diagnosis], right: Tensor) -> Verdict:
    found = problems(calls)
    if not found:
        return Verdict()
    first = found[0]
    verdict = Verdict(_said(found), evidence=first.evidence, decide=first.decide or "")
    if first.code not in fault.codes or first.fix is None:
        return verdict
    return replace(
        verdict,
        fix_offered=True,
        fix_right=is_right(repaired(pipeline, intake, first.fix), right, intake.spoilt)
        or within_a_pixel(first.fix, intake),
        line_right=is_right(pasted(pipeline, intake, first.fix.code), right, intake.spoilt),
        line=first.fix.code,
    )


def _of_the_program(cases: Sequence[Case], mode: str, calls: Sequence[Diagnosis]) -> Verdict:
    """What the report of all calls says; its first problem has the fix of the first call that has that problem."""
    said = _said(problems(calls))
    if not said:
        return Verdict()
    made = [verdict for one in cases if (verdict := one.verdict(mode)) is not None]
    shown = next((verdict for verdict in made if said[0].code in verdict.codes), None)
    return replace(shown, said=said) if shown is not None and shown.first == said[0].code else Verdict(said)


def _change(wrong: Tensor | None, right: Tensor) -> float:
    if wrong is None or wrong.shape != right.shape:
        return math.inf
    difference, size = (wrong - right).flatten(1).norm(dim=1), right.flatten(1).norm(dim=1)
    return float((difference / size.clamp(min=1e-12 * float(size.max()))).nan_to_num(math.inf).max())


def _reach(intake: Intake) -> tuple[float, float]:
    boxes = intake.boxes[0] if isinstance(intake.boxes, list) and intake.boxes else None
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        return math.nan, math.nan
    height, width = intake.frame_hw
    furthest = boxes.detach().float().amax(0)
    return float(max(furthest[0], furthest[2])) / width, float(max(furthest[1], furthest[3])) / height
