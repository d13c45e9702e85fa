"""The readable page of the fault-injection benchmark."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from .doctor_alarms import Watched, section
from .doctor_cases import LEAST_CHANGE, Case, Program, Verdict
from .doctor_reliability import Point, as_table
from .doctor_watched import ALONE, KNOWN, MODES, SEEN
from .report import table

_HEAD = """\
# How well the doctor does

Made by `{command}` in {minutes} minutes; do not edit it.

- Seed {seed}; versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}
- Machine: {machine}; day: {date}

Into {programs} healthy programs, one fault each was made at random, with random parameters: the first {first} programs
have the {first_faults} faults that this benchmark began with, in turn, the others {new_faults} that people reported
since. A program pools from {each} of {photographs} photographs, drawn at random and cropped to the formats of cameras
(one in eight is square), with boxes drawn at random, in most pipelines 1 to 60 an image. Photograph by photograph
these are {cases} calls. A call *counts* if the fault does harm: if it changes the features of some RoI by more than
{change:.0f} % (relative L2), their shape, raises, or withholds a gradient that was wanted. A program counts if one of
its calls does. Every fault weighs the same, however common it is.

- *Found*: the doctor reports something.
- *Right first*: the first problem of its report has a code of the fault.
- *Fix right*: the output with the first problem's fix equals the healthy one, or its boxes lie within a pixel of the
  right ones (images are resized to whole pixels, boxes by the ratio that was meant); of those where it has a fix.
- *Line right*: the same of the program itself, with the line that is shown to be pasted run as it stands.

The doctor is asked in three ways, which give it more and more evidence:

- *{alone}*: `roialign.diagnose(...)` with the call's arguments and nothing else,
- *{seen}*: the unchanged program under `roialign.watch()`,
- *{known}*: the same under `roialign.watch(model)`. Half a cell off (RA108) needs a grid with a measured offset, which
  only `roialign.diagnose(..., grid=...)` takes: in this row it was given.

Some of the reported faults leave boxes where healthy ones might lie: a mirrored photograph, y first in a square one,
another frame whose boxes lie within this one. No number shows them, so they are counted apart, below.
{drawn_words}
"""
_DRAWN = "Those that only the picture shows at all are made in {drawn} photographs with boxes that people drew."
_NOT_DRAWN = "No photographs with boxes that people drew were given (`--data`), so the picture shows none of them here."
_COUNTED = ("found", "right first", "fix right", "line right")
_RELIABILITY = """\
## How sure it is, and how often it is right

The first findings of all calls, in all three ways, whose odds were stated: how many times likelier than all other
explanations together, which is a probability of odds / (1 + odds). Healthy calls are among them: what is named there is
wrong. Faults that only the picture shows are, too.

![How often the first finding is right against how sure the doctor is]({figure})
"""
_Kind = tuple[str, Sequence[Program]]


def page(
    first: Sequence[Program],
    new: Sequence[Program],
    watched: Sequence[Watched],
    points: Sequence[Point],
    facts: Mapping[str, str],
) -> str:
    """All of the results as Markdown."""
    programs = [*first, *new]
    cases = _cases(programs)
    drawn = int(facts["drawn"])
    head = _HEAD.format(
        **facts,
        drawn_words=_DRAWN.format(drawn=drawn) if drawn else _NOT_DRAWN,
        programs=len(programs),
        first=len(first),
        first_faults=len({one.fault for one in first}),
        new_faults=len({one.fault for one in new}),
        each=len(programs[0].cases),
        cases=len(cases),
        change=100 * LEAST_CHANGE,
        alone=ALONE,
        seen=SEEN,
        known=KNOWN,
    )
    kinds: list[_Kind] = [("the first faults", _counting(first)), ("the faults reported since", _counting(new))]
    calls = [*watched, *(Watched(one.cases[0].pipeline, one.healthy_calls, one.alarms) for one in programs)]
    shown = [case for _, some in kinds for case in _calls(some)]
    parts = [head, "## Targets\n", _targets(kinds, calls)]
    for name, some in kinds:
        parts += [f"## Programs: {name}\n", table(["evidence", "programs", *_COUNTED], _totals(some))]
    for name, some in kinds:
        parts += [f"## Single calls: {name}\n", table(["evidence", "calls", *_COUNTED], _totals(_calls(some)))]
    parts += ["## What only the picture shows\n", _hidden(cases)]
    parts += [section(calls), _RELIABILITY.format(figure=facts["figure"]), as_table(points) or "No finding had odds.\n"]
    for mode in MODES:
        parts += [f"## What is taken for what, {mode}\n", _confusion(shown, mode)]
    for name, some in kinds:
        parts += [f"## By fault: {name}\n", *(_by_fault(_calls(some), mode) for mode in MODES)]
    for mode in (SEEN, KNOWN):
        missed = [program for _, some in kinds for program in some if not _right(program, mode)]
        parts += [f"## Programs that are not found, or under another code first, {mode}\n"]
        parts += [_list([_missed(program, mode) for program in missed])]
    for mode in (SEEN, KNOWN):
        parts += [f"## Every call that is missed, {mode}\n"]
        parts += [_list([_miss(case, mode) for case in shown if not _right(case, mode)])]
    parts += [
        "## Fixes and lines that are not right\n",
        _list([words for case in shown for words in _wrong_fixes(case)]),
    ]
    return "\n".join(parts)


def as_csv(first: Sequence[Program], new: Sequence[Program]) -> str:
    """One line for each call: the fault, and what comes first in each way of asking."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    asked = [f"{what}, {mode}" for mode in MODES for what in ("first", "severity", "odds", "fix right", "line right")]
    writer.writerow(["program", "codes", "fault", "pipeline", "boxes", "hidden", "change", *asked])
    for index, program in enumerate([*first, *new]):
        for case in program.cases:
            said = [part for mode in MODES for part in _in_csv(case.verdict(mode))]
            about = [case.fault, case.pipeline, case.boxes, case.hidden, f"{case.change:.4g}"]
            writer.writerow([index, " ".join(case.codes), *about, *said])
    return text.getvalue()


def _in_csv(verdict: Verdict | None) -> list[str]:
    if verdict is None or not verdict.said:
        return ["" if verdict is None else "nothing", "", "", "", ""]
    first = verdict.said[0]
    fixes = [str(verdict.fix_right), str(verdict.line_right)] if verdict.fix_offered else ["", ""]
    return [first.code, first.severity, "" if first.odds is None else f"{first.odds:.4g}", *fixes]


def _cases(programs: Iterable[Program]) -> list[Case]:
    return [case for program in programs for case in program.cases]


def _counting(programs: Iterable[Program]) -> list[Program]:
    return [program for program in programs if program.harmful and not program.hidden]


def _calls(programs: Iterable[Program]) -> list[Case]:
    return [case for case in _cases(programs) if case.harmful and not case.hidden]


def _right(one: Case | Program, mode: str) -> bool:
    verdict = one.verdict(mode)
    return verdict is None or verdict.first in one.codes


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % ({part} of {whole})" if whole else ""


def _totals(made: Sequence[Case | Program]) -> list[list[str]]:
    """A row for each way of asking."""
    rows = [_total(mode, mode, made) for mode in MODES]
    return [*rows[:1], _total(f"{ALONE}, of what they can show", ALONE, _showable(made)), *rows[1:]]


def _showable(made: Sequence[Case | Program]) -> list[Case | Program]:
    """Without the faults that the arguments of a call cannot show."""
    return [one for one in made if not (one.cases[0] if isinstance(one, Program) else one).needs_more]


def _total(name: str, mode: str, made: Sequence[Case | Program]) -> list[str]:
    verdicts = [(one, verdict) for one in made if (verdict := one.verdict(mode)) is not None]
    offered = [verdict for _, verdict in verdicts if verdict.fix_offered]
    return [
        name,
        str(len(verdicts)),
        _share(sum(bool(verdict.said) for _, verdict in verdicts), len(verdicts)),
        _share(sum(verdict.first in one.codes for one, verdict in verdicts), len(verdicts)),
        _share(sum(verdict.fix_right for verdict in offered), len(offered)),
        _share(sum(verdict.line_right for verdict in offered), len(offered)),
    ]


def _targets(kinds: Sequence[_Kind], watched: Sequence[Watched]) -> str:
    right_first, fix_right = 3, 4  # columns of _total
    aims: list[tuple[str, str, Callable[[Sequence[Program]], list[str]], int]] = [
        ("programs, model known: right first", "98 %", lambda some: _total("", KNOWN, some), right_first),
        ("programs, image seen: right first", "97 %", lambda some: _total("", SEEN, some), right_first),
        ("single calls, boxes alone: right first", "80 %", lambda some: _total("", ALONE, _calls(some)), right_first),
        (
            "the same of what they can show",
            "",
            lambda some: _total("", ALONE, _showable(_calls(some))),
            right_first,
        ),
        ("programs, model known: fix right", "97 %", lambda some: _total("", KNOWN, some), fix_right),
        ("programs, image seen: fix right", "97 %", lambda some: _total("", SEEN, some), fix_right),
    ]
    rows = [[what, least, *(total(some)[column] for _, some in kinds)] for what, least, total, column in aims]
    errors = sum(alarm.severity == "error" for one in watched for alarm in one.alarms)
    rows.append([f"errors in {sum(one.calls for one in watched)} healthy calls", "0", str(errors), ""])
    return table(["what", "target", *(name for name, _ in kinds)], rows)


def _by_fault(cases: Sequence[Case], mode: str) -> str:
    rows = []
    for codes, fault in sorted({(case.codes, case.fault) for case in cases}):
        own = [case for case in cases if case.fault == fault]
        chosen = [verdict for case in own if (verdict := case.verdict(mode)) is not None]
        offered = [verdict for verdict in chosen if verdict.fix_offered]
        counts = [len(chosen), sum(bool(one.said) for one in chosen), sum(one.first in codes for one in chosen)]
        fixes = [f"{sum(made)} of {len(made)}" if made else "" for made in _made(offered)]
        rows.append([" or ".join(codes), fault, *map(str, counts), *fixes])
    return table(["code", f"fault, {mode}", "calls", *_COUNTED], rows)


def _made(offered: Sequence[Verdict]) -> tuple[list[bool], list[bool]]:
    return [verdict.fix_right for verdict in offered], [verdict.line_right for verdict in offered]


def _hidden(cases: Sequence[Case]) -> str:
    """Of the calls that no number gives away: what is said of them."""
    rows = []
    for codes, fault in sorted({(case.codes, case.fault) for case in cases if case.hidden and case.harmful}):
        own = [case for case in cases if case.fault == fault and case.hidden and case.harmful]
        for mode in MODES:
            firsts = [verdict.first for case in own if (verdict := case.verdict(mode)) is not None]
            right, silent = sum(first in codes for first in firsts), firsts.count("nothing")
            counts = [len(firsts), right, len(firsts) - right - silent, silent]
            rows.append([" or ".join(codes), fault, mode, *map(str, counts)])
    return table(["code", "fault", "evidence", "calls", "right first", "another first", "nothing"], rows)


def _confusion(cases: Sequence[Case], mode: str) -> str:
    """What comes first in place of a right code, the most frequent first."""
    wrong = [(case, verdict) for case in cases if (verdict := case.verdict(mode)) and verdict.first not in case.codes]
    counts = Counter((" or ".join(case.codes), case.fault, verdict.first) for case, verdict in wrong)
    if not counts:
        return "Nothing.\n"
    of_each = Counter(case.fault for case in cases if case.verdict(mode))
    rows = [
        [codes, fault, first, f"{count} of {of_each[fault]}"] for (codes, fault, first), count in counts.most_common()
    ]
    return table(["made", "fault", "first", "calls"], rows)


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines) or "None.\n"


def _missed(program: Program, mode: str) -> str:
    firsts = Counter(verdict.first for case in program.cases if (verdict := case.verdict(mode)))
    said = ", ".join(f"{first} in {count}" for first, count in firsts.most_common())
    return f"{' or '.join(program.codes)}, {program.fault}, in {program.cases[0].pipeline}: {said}."


def _where(case: Case) -> str:
    return f"{' or '.join(case.codes)}, {case.fault}, in {case.pipeline} ({case.boxes} boxes)"


def _miss(case: Case, mode: str) -> str:
    verdict = case.verdicts[mode]
    if not verdict.said:
        return f"{_where(case)}: nothing found. {_reason(case)}"
    beside = " The right code is further down." if set(case.codes) & set(verdict.codes) else ""
    named = " Its words name the right one too." if any(code in verdict.decide for code in case.codes) else ""
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


def _wrong_fixes(case: Case) -> list[str]:
    """The fixes and lines that are not right, those of both ways of watching that are one told once."""
    told = []
    for verdict in (case.verdict(SEEN), case.verdict(KNOWN)):
        if verdict is not None and verdict.fix_offered and not (verdict.fix_right and verdict.line_right):
            made = {"fix": verdict.fix_right, "line": verdict.line_right}
            wrong = " and ".join(name for name, right in made.items() if not right)
            told.append(f"{_where(case)}, {wrong}: `{' '.join(verdict.line.split())}`")
    return list(dict.fromkeys(told))
