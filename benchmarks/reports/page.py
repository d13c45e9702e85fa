"""The readable page of how the doctor does on reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.report import table

from .collection import HIDDEN, Entry
from .scoring import WAYS, Verdict

_HEAD = """\
# How the doctor does on what people did

Made by `{command}` in {minutes} minutes; do not edit it.

- Versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}
- Machine: {machine}; day: {date}

Each program is made of a report in a public tracker, named by its repository and number, or of what people do with
care. *Given* reports were there before the doctor was made to weigh explanations, *fitted* ones were looked at while
it was made, *kept* ones only when it was done: unseen, 5 of 15 were named, 4 wrong and 6 silent, and the kinds of
mistakes that they showed were added then. *Fresh* ones were written after the doctor was last tuned, and their labels
committed before it was run on them. A fault is *named* if the first finding has the right code and words; *wrong* is
another first finding, *silent* none. The *fix* of the first finding is right if the program with the line
pasted, or else the call that the finding proved, gives what the right call gives.
"""
_OUTCOMES = ("named", "wrong", "silent")
_OTHERS = ("clean", "warned", "false error")
Verdicts = Mapping[str, Mapping[str, Verdict]]


def page(entries: Sequence[Entry], verdicts: Verdicts, missing: Sequence[str], facts: Mapping[str, str]) -> str:
    """All of the results as Markdown; of hidden reports only how many there are."""
    faults = [entry for entry in entries if entry.reported.kind == "fault"]
    unseen = [entry for entry in entries if entry.reported.kind == "unseen"]
    healthy = [entry for entry in entries if entry.reported.kind == "healthy"]
    parts = [
        _HEAD.format(**facts),
        "## Totals\n",
        table(["reports", "watched by", *_OUTCOMES, "fix right", "false errors"], _totals(entries, verdicts)),
        "## Faults\n",
        _rows(faults, verdicts),
        "## Faults that nothing shows, or that are none: silence is right\n",
        _rows(unseen, verdicts),
        "## Healthy programs\n",
        _rows(healthy, verdicts),
    ]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.\n")
    return "\n".join(parts)


def score(entries: Sequence[Entry], verdicts: Verdicts) -> str:
    """One line for each way of watching."""
    lines = []
    for way in WAYS:
        seen = [(entry, verdicts[entry.id][way]) for entry in entries if way in verdicts[entry.id]]
        counts = ", ".join(f"{_count(seen, outcome)} {outcome}" for outcome in (*_OUTCOMES, *_OTHERS))
        if seen:
            lines.append(f"{way}: {counts}; fixes: {_count_fixes(seen)}")
    return "\n".join(lines)


Seen = Sequence[tuple[Entry, Verdict]]


def _count(seen: Seen, outcome: str) -> int:
    return sum(verdict.outcome == outcome for _, verdict in seen)


def _count_fixes(seen: Seen) -> str:
    fixes = [verdict.fix for _, verdict in seen if verdict.fix in ("right", "wrong")]
    return f"{fixes.count('right')} of {len(fixes)}"


def _totals(entries: Sequence[Entry], verdicts: Verdicts) -> list[list[str]]:
    rows = []
    for part in dict.fromkeys(entry.part for entry in entries):
        for way in WAYS:
            seen = [(entry, verdicts[entry.id][way]) for entry in entries if entry.part == part]
            faults = [one for one in seen if one[0].reported.kind == "fault"]
            outcomes = [f"{_count(faults, outcome)} of {len(faults)}" for outcome in _OUTCOMES]
            others = f"{_count(seen, 'false error')} of {len(seen) - len(faults)}"
            rows.append([part, f"`{way}`", *outcomes, _count_fixes(seen), others])
    return rows


def _rows(entries: Sequence[Entry], verdicts: Verdicts) -> str:
    shown = [entry for entry in entries if entry.part not in HIDDEN]
    head = ["report", "what was done", "right"]
    rows = []
    for entry in shown:
        reported = entry.reported
        said = [_said(verdicts[entry.id][way]) for way in WAYS]
        rows.append([_escaped(one) for one in (reported.name, reported.what, reported.right, *said)])
    return table([*head, *(f"`{way}`" for way in WAYS)], rows)


def _said(verdict: Verdict) -> str:
    codes = " ".join(dict.fromkeys(verdict.codes))
    fix = f", fix {verdict.fix}" if verdict.fix else ""
    return f"{verdict.outcome}{fix}{': ' + codes if codes else ''}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
