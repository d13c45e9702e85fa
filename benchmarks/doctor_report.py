"""The readable page of the fault-injection benchmark."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .doctor_cases import ALONE, KNOWN, LEAST_CHANGE, MODES, SEEN, Case, Program, Verdict
from .report import table

_HEAD = """\
# How well the doctor does

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- Seed {seed}; versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}
- Machine: {machine}; day: {date}

Into {programs} healthy programs, one fault each was made at random: {faults} faults, in turn, with random parameters.
A program pools from {each} of {photographs} photographs, drawn at random and cropped to the formats of cameras (one in
eight is square), with boxes drawn at random, in most pipelines 1 to 30 an image. Photograph by photograph these are
{cases} calls. A call *counts* if the fault does harm: if it changes the features of some RoI by more than
{change:.0f} % (relative L2), their shape, raises, or withholds a gradient that was wanted: {harmful} calls. A program
counts if one of its calls does: {harmful_programs} programs. Every fault weighs the same, however common it is.
*Found*: the doctor reports something. *Right first*: the first problem of its report has the code of the fault.
*Fix right*: the output with the proven fix of that problem equals the healthy one, of those where it has a fix.

The doctor is asked in three ways, which give it more and more evidence:

- *{alone}*: `roialign.diagnose(...)` with the call's arguments and nothing else,
- *{seen}*: the unchanged program under `roialign.watch()`,
- *{known}*: the same under `roialign.watch(model)`. RA108 needs a grid with a measured offset, which only
  `roialign.diagnose(..., grid=...)` takes: in this row it was given.
"""
_COUNTED = ("found", "right first", "fix right")
_ALARMS = """\
## False alarms

{healthy} healthy calls of the same programs, and {whole} calls of whole detectors, examined in each way that applies:
{alarms}.
"""
_MISSES = """\
## Every miss, with the image seen

Cases that count and that were not found, or under another code first.
"""


def page(
    programs: Sequence[Program],
    whole: int,
    whole_alarms: Mapping[str, int],
    photographs: int,
    minutes: float,
    facts: Mapping[str, str],
) -> str:
    """All of the results as Markdown."""
    cases = [case for program in programs for case in program.cases]
    harmful = [case for case in cases if case.harmful]
    counting = [program for program in programs if program.harmful]
    missed = [one for one in counting if _first(one, SEEN) != one.code]
    head = _HEAD.format(
        **facts,
        minutes=minutes,
        photographs=photographs,
        programs=len(programs),
        each=len(programs[0].cases),
        harmful_programs=len(counting),
        cases=len(cases),
        faults=len({case.fault for case in cases}),
        change=100 * LEAST_CHANGE,
        harmful=len(harmful),
        alone=ALONE,
        seen=SEEN,
        known=KNOWN,
    )
    alarms = Counter(code for case in cases for codes in case.false_alarms.values() for code in codes)
    alarms.update(whole_alarms)
    told = ", ".join(f"{code} {count} times" for code, count in sorted(alarms.items())) or "none"
    parts = [
        head,
        "## Programs\n",
        table(
            ["evidence", "programs", "found", "right first", "fix right"], (_total(counting, mode) for mode in MODES)
        ),
        "### Programs that are not found, or under another code first, with the image seen\n",
        "".join(f"- {_missed(program)}\n" for program in missed) or "None.\n",
        "## Single calls\n",
        table(["evidence", "calls", *_COUNTED], (_total(harmful, mode) for mode in MODES)),
        _ALARMS.format(healthy=len(cases), whole=whole, alarms=told),
        "## By fault, with the image seen, and with the model known\n",
        _by_fault(harmful),
        "## By fault, boxes alone\n",
        table(["code", "fault", "cases", "found", "right first", "fix right"], _rows(harmful, ALONE)),
        "## Which code comes first, with the image seen\n",
        _confusion(harmful),
        _MISSES,
        "".join(f"- {_miss(case, SEEN)}\n" for case in harmful if case.verdicts[SEEN].first != case.code) or "None.\n",
        "## And those that the model does not mend, or that only then appear\n",
        "".join(f"- {_miss(case, KNOWN)}\n" for case in harmful if case.verdicts[KNOWN].first != case.code)
        or "None.\n",
        "## Fixes that are not right, with the image seen\n",
        "".join(f"- {_wrong_fix(case)}\n" for case in harmful if _has_wrong_fix(case)) or "None.\n",
    ]
    return "\n".join(parts)


def as_csv(programs: Sequence[Program]) -> str:
    """One line for each call: the fault, and what comes first in each way of asking."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    asked = [f"{what}, {mode}" for mode in MODES for what in ("first", "fix right")]
    writer.writerow(["program", "code", "fault", "pipeline", "boxes", "change", *asked])
    for index, program in enumerate(programs):
        for case in program.cases:
            said = [_said(case.verdict(mode)) for mode in MODES]
            change = f"{case.change:.4g}"
            writer.writerow(
                [
                    index,
                    case.code,
                    case.fault,
                    case.pipeline,
                    case.boxes,
                    change,
                    *(part for one in said for part in one),
                ]
            )
    return text.getvalue()


def _said(verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None:
        return "", ""
    return verdict.first, str(verdict.fix_right) if verdict.fix_offered else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % ({part} of {whole})" if whole else ""


def _total(made: Iterable[Case | Program], mode: str) -> list[str]:
    verdicts = [(one.code, verdict) for one in made if (verdict := one.verdict(mode)) is not None]
    offered = [verdict for _, verdict in verdicts if verdict.fix_offered]
    return [
        mode,
        str(len(verdicts)),
        _share(sum(bool(verdict.codes) for _, verdict in verdicts), len(verdicts)),
        _share(sum(verdict.first == code for code, verdict in verdicts), len(verdicts)),
        _share(sum(verdict.fix_right for verdict in offered), len(offered)),
    ]


def _first(program: Program, mode: str) -> str:
    verdict = program.verdict(mode)
    return verdict.first if verdict else ""


def _missed(program: Program) -> str:
    counts = Counter(case.verdicts[SEEN].first for case in program.cases)
    said = ", ".join(f"{first} in {count}" for first, count in counts.most_common())
    known = _first(program, KNOWN)
    return f"{program.code}, {program.fault}, in {program.cases[0].pipeline}: {said}. With the model: {known}."


def _faults(cases: Sequence[Case]) -> list[tuple[str, str]]:
    return sorted({(case.code, case.fault) for case in cases})


def _rows(cases: Sequence[Case], mode: str) -> list[list[str]]:
    rows = []
    for code, fault in _faults(cases):
        chosen = [case.verdicts[mode] for case in cases if case.fault == fault and mode in case.verdicts]
        offered = [verdict for verdict in chosen if verdict.fix_offered]
        counts = [len(chosen), sum(bool(v.codes) for v in chosen), sum(v.first == code for v in chosen)]
        fixes = f"{sum(v.fix_right for v in offered)} of {len(offered)}" if offered else ""
        rows.append([code, fault, *map(str, counts), fixes])
    return rows


def _by_fault(cases: Sequence[Case]) -> str:
    rows = [[*seen, *known[3:]] for seen, known in zip(_rows(cases, SEEN), _rows(cases, KNOWN), strict=True)]
    head = ["code", "fault", "cases", "found", "right first", "fix right"]
    return table([*head, "model: found", "right first", "fix right"], rows)


def _confusion(cases: Sequence[Case]) -> str:
    firsts = sorted({case.verdicts[SEEN].first for case in cases})
    rows = []
    for code in sorted({case.code for case in cases}):
        counts = Counter(case.verdicts[SEEN].first for case in cases if case.code == code)
        rows.append([code, *(str(counts[first]) if counts[first] else "" for first in firsts)])
    return table(["made", *firsts], rows)


def _where(case: Case) -> str:
    return f"{case.code}, {case.fault}, in {case.pipeline} ({case.boxes} boxes)"


def _miss(case: Case, mode: str) -> str:
    verdict = case.verdicts[mode]
    if not verdict.codes:
        return f"{_where(case)}: nothing found. {_reason(case)}"
    beside = " The right code is further down." if case.code in verdict.codes else ""
    named = " Its words name the right one too." if case.code in verdict.decide else ""
    return f"{_where(case)}: {verdict.first} first. {verdict.evidence}{beside}{named}"


def _reason(case: Case) -> str:
    """What the boxes look like, where they give the fault away to nobody."""
    x, y = case.reach_xy
    if math.isnan(x):
        return "The arguments are of a form that the operator takes as it is."
    if max(x, y) <= 1.0:
        where = f"The boxes lie within the image, across {100 * x:.0f} % of its width and {100 * y:.0f} % of its height"
    else:
        where = f"The boxes reach to {100 * x:.0f} % of the width and {100 * y:.0f} % of the height of the image"
    shape = f", which is {case.oblong:.2f} times as long as wide" if case.code in ("RA203", "RA304") else ""
    return f"{where}{shape}: as called they may be boxes of it. The features change by {_percent(case.change)}."


def _percent(change: float) -> str:
    return "more than can be said" if math.isinf(change) else f"{100 * change:.0f} % at most"


def _has_wrong_fix(case: Case) -> bool:
    return case.verdicts[SEEN].fix_offered and not case.verdicts[SEEN].fix_right


def _wrong_fix(case: Case) -> str:
    verdict = case.verdicts[SEEN]
    return f"{_where(case)}: {verdict.evidence} {verdict.decide}".rstrip()
