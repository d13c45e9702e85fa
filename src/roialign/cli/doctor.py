"""`roialign doctor`: runs a program under watch, or takes a saved call, and prints what was found."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rich.console import Console

from roialign.cli.program import NoModuleError, or_nowhere, runner, say, to_its_end
from roialign.doctor.findings import Report
from roialign.doctor.report.terminal import render
from roialign.doctor.report.words import counted
from roialign.doctor.sarif import as_sarif
from roialign.doctor.saved import load_call
from roialign.doctor.selection import Selection
from roialign.doctor.watch import CallSites, post_mortem, watch
from roialign.version import __version__

_STDOUT = "-"


@dataclass(frozen=True)
class Request:
    """What was typed after `roialign doctor`."""

    program: Sequence[str]
    """The script and its arguments; after -m the arguments only."""
    module: str | None = None
    call: Path | None = None
    report: Path | None = None
    json: str | None = None
    sarif: str | None = None
    select: str | None = None
    ignore: str | None = None
    own_process: bool = False
    """Whether the process ends with the command, so that the program can be watched to the very end."""


def run(request: Request) -> int:
    """Do what was asked; the exit status that the command should have."""
    try:
        selection = Selection.of(request.select, request.ignore)
        outputs = _Outputs.of(request)
        examine = _subject(request)
    except ValueError as error:
        return _refused(error)
    try:
        status, seen = examine()
    except NoModuleError as error:
        return _refused(error)
    report, outputs = selection.of_report(seen), outputs.still_open()
    with contextlib.suppress(OSError, ValueError):  # where nobody reads it any more
        outputs.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        render(report, Console(file=outputs.stderr))
    outputs.say_what_was_left_out(seen, report)
    written = outputs.write(report, status)
    found_errors = any(finding.severity == "error" for finding in report.findings)
    return status or (int(found_errors) if written else 2)


def _refused(error: Exception) -> int:
    say(f"roialign doctor: {error}", or_nowhere(sys.stderr))
    return 2


@dataclass(frozen=True)
class _Outputs:
    """Where the report goes, settled before the program runs, which may change its folder and its streams."""

    page: Path | None
    json: Path | None
    sarif: Path | None
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def of(cls, request: Request) -> _Outputs:
        if str(request.report) == _STDOUT:
            raise ValueError("--report needs a file, such as report.html")
        page, json_file, sarif = _output(request.report), _output(request.json), _output(request.sarif)
        files = [path for path in (page, json_file, sarif) if path is not None]
        if len(set(files)) < len(files):
            raise ValueError("--report, --json and --sarif need different files; two of them have the same, or stdout")
        return cls(page, json_file, sarif, or_nowhere(sys.stdout), or_nowhere(sys.stderr))

    def still_open(self) -> _Outputs:
        """The same ones, where the program has closed its streams: the terminal or the pipe behind them is open."""
        return replace(self, stdout=_reopened(self.stdout, 1), stderr=_reopened(self.stderr, 2))

    def write(self, report: Report, status: int) -> bool:
        """Write the files; whether all could be written."""
        written = [
            self._write(self.page, lambda path: report.save(path)),
            self._write(self.json, lambda path: self._dump(path, {"roialign": __version__, **report.to_dict()})),
            self._write(self.sarif, lambda path: self._dump(path, as_sarif(report, status))),
        ]
        if self.page is not None and written[0]:
            say(f"Report with pictures: {os.path.relpath(self.page)}", self.stderr)
        return all(written)

    def say_what_was_left_out(self, seen: Report, report: Report) -> None:
        number = len(seen.problems) - len(report.problems)
        if number:
            shown = {finding.code for finding in report.findings}
            codes = sorted({finding.code for finding in seen.findings} - shown)
            say(f"Not selected: {counted(number, 'problem')} of {', '.join(codes)}.", self.stderr)

    def _write(self, path: Path | None, write: Callable[[Path], None]) -> bool:
        try:
            if path is not None:
                write(path)
        except (OSError, ValueError) as error:
            say(f"roialign doctor: could not write {path}: {error}", self.stderr)
            return False
        return True

    def _dump(self, path: Path, values: object) -> None:
        text = json.dumps(values, indent=2) + "\n"
        if str(path) != _STDOUT:
            path.write_text(text, encoding="utf-8")
            return
        self.stdout.write(text)
        self.stdout.flush()


def _reopened(stream: TextIO, descriptor: int) -> TextIO:
    if not stream.closed:
        return stream
    try:
        return open(descriptor, "w", closefd=False)
    except OSError:
        return or_nowhere(None)


def _output(typed: str | Path | None) -> Path | None:
    if typed is None or str(typed) == _STDOUT:
        return None if typed is None else Path(_STDOUT)
    path = Path(typed).absolute()
    if path.is_dir():
        raise ValueError(f"cannot write {typed}: it is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {typed}: there is no folder {path.parent}")
    return path


def _subject(request: Request) -> Callable[[], tuple[int, Report]]:
    """What is to be examined, once it is known that it is there; returns the exit status and what was seen."""
    if request.call is not None:
        if request.program or request.module is not None:
            raise ValueError("expected SCRIPT, -m MODULE or --call FILE; got --call and a program")
        saved = load_call(request.call)

        def examine() -> tuple[int, Report]:
            say(f"{saved.about}\n", or_nowhere(sys.stderr))
            return 0, Report([saved.diagnose()])

        return examine
    if request.module is None and not request.program:
        raise ValueError("expected SCRIPT, -m MODULE or --call FILE; see roialign doctor --help")
    run_program = runner(request.program, request.module)
    return lambda: _watched(run_program, request.own_process)


def _watched(run_program: Callable[[], object], own_process: bool) -> tuple[int, Report]:
    """Run a program to its end, however it ends; its exit status and what was seen."""
    sites = CallSites()
    with watch() as report:
        status, error = to_its_end(run_program, or_nowhere(sys.stderr), own_process)
    raised_in = post_mortem(error, sites)
    if raised_in is not None:
        report = Report([*report.calls, raised_in])
    return status, report
