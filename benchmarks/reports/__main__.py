"""Scores the doctor on programs made of public reports, and writes benchmarks/results/reports.md.

Of a fault, "named" is a first finding with the right code and the right words, "wrong" is another one. Of a healthy
program, or of one whose fault nothing shows, a "false error" is any finding that is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.results import write_all

from .collection import HIDDEN, Entry, Part, entries
from .page import page, score
from .scenes import MissingPictureError
from .scoring import ALONE, WAYS, Verdict, judge

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "benchmarks" / "results"
EXPECTED = _ROOT / "tests" / "doctor" / "reports.json"


def main() -> None:
    given = _arguments()
    os.environ["COLUMNS"] = "80"
    torch.set_num_threads(1)
    begin = time.monotonic()
    parts: tuple[Part, ...] = (given.half,) if given.half else ("given", "fitted") if given.only else ()
    chosen = [entry for entry in entries(*parts) if given.only in entry.reported.name]
    verdicts: dict[str, dict[str, Verdict]] = {}
    judged, missing = [], []
    for entry in chosen:
        try:
            verdicts[entry.id] = _judged(entry, (ALONE,) if given.expect else WAYS, given.right)
        except MissingPictureError as error:
            missing.append(f"{entry.id} ({error})")
            continue
        judged.append(entry)
        _show(entry, verdicts[entry.id], given.verbose, given.half == entry.part)
    print(score(judged, verdicts))
    if missing:
        print(f"not run: {', '.join(missing)}")
    if given.expect:
        _expect({entry.id: verdicts[entry.id][ALONE].outcome for entry in judged}, [entry.id for entry in chosen])
    elif not (given.only or given.half or given.right):
        command = " ".join(["python -m benchmarks.reports", *sys.argv[1:]])
        facts = {**environment(), "command": command, "minutes": f"{(time.monotonic() - begin) / 60:.0f}"}
        write_all(RESULTS, {"reports.md": page(judged, verdicts, missing, facts).encode()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true", help="print each report, 80 columns wide")
    parser.add_argument(
        "--only",
        metavar="NAME",
        default="",
        help="reports whose name contains this, hidden ones only with their --half",
    )
    parser.add_argument("--half", choices=("given", "fitted", "kept", "fresh"), help="one part of the reports")
    parser.add_argument("--expect", action="store_true", help="write what the tests expect, tests/doctor/reports.json")
    parser.add_argument(
        "--right", action="store_true", help="run what would have been right in each report: any error is then false"
    )
    given = parser.parse_args()
    if given.expect and (given.only or given.half or given.right):
        parser.error("--expect is of all reports as they are, so expected without --only, --half and --right")
    return given


def _expect(outcomes: dict[str, str], ids: list[str]) -> None:
    """Of reports that could not be run here, what was expected stays."""
    before = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    expected = {one: outcomes.get(one, before.get(one)) for one in ids if one in outcomes or one in before}
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


def _judged(entry: Entry, ways: Sequence[str], right: bool) -> dict[str, Verdict]:
    program = entry.reported.build()
    return {way: judge(entry.reported, program, way, right) for way in ways}


def _show(entry: Entry, verdicts: dict[str, Verdict], verbose: bool, wanted: bool) -> None:
    """Hidden reports are shown by their number only, unless their part was asked for."""
    shown = entry.part not in HIDDEN or wanted
    name = entry.reported.name if shown else entry.id
    for way, verdict in verdicts.items():
        codes = " ".join(dict.fromkeys(verdict.codes)) if shown else ""
        raised = f" raised {verdict.raised}" if verdict.raised and shown else ""
        fix = f"fix {verdict.fix}" if verdict.fix else ""
        print(f"{name:37}{way:13}{verdict.outcome:12}{fix:10}{codes}{raised}", flush=True)
    if verbose and shown:
        title = textwrap.fill(entry.reported.title, 80)
        right = textwrap.fill(f"right: {entry.reported.right or 'as it is'}", 80)
        texts = dict.fromkeys(verdict.text for verdict in verdicts.values())
        print(f"\n{title}\n{right}\n", *texts, "", sep="\n")


if __name__ == "__main__":
    main()
