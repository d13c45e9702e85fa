"""`roialign doctor`: runs a program under watch, or takes a saved call, and prints what was found."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

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
    except _NoModuleError as error:
        return _refused(error)
    report = selection.of_report(seen)
    with contextlib.suppress(OSError, ValueError):  # the program may have closed it
        outputs.stdout.flush()
    render(report, Console(file=outputs.stderr))
    outputs.say_what_was_left_out(seen, report)
    written = outputs.write(report, status)
    found_errors = any(finding.severity == "error" for finding in report.findings)
    return status or (int(found_errors) if written else 2)


class _NoModuleError(Exception):
    """A module that cannot be run, found out when its packages are imported."""


def _refused(error: Exception) -> int:
    print(f"roialign doctor: {error}", file=sys.stderr)
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
            raise ValueError("--report, --json and --sarif need a file each; two of them have the same, or stdout")
        return cls(page, json_file, sarif, sys.stdout, sys.stderr)

    def write(self, report: Report, status: int) -> bool:
        """Write the files; whether all could be written."""
        written = [
            self._write(self.page, lambda path: report.save(path)),
            self._write(self.json, lambda path: self._dump(path, {"roialign": __version__, **report.to_dict()})),
            self._write(self.sarif, lambda path: self._dump(path, as_sarif(report, status))),
        ]
        if self.page is not None and written[0]:
            print(f"Report with pictures: {os.path.relpath(self.page)}", file=self.stderr)
        return all(written)

    def say_what_was_left_out(self, seen: Report, report: Report) -> None:
        number = len(seen.problems) - len(report.problems)
        if number:
            shown = {finding.code for finding in report.findings}
            codes = sorted({finding.code for finding in seen.findings} - shown)
            print(f"Not selected: {counted(number, 'problem')} of {', '.join(codes)}.", file=self.stderr)

    def _write(self, path: Path | None, write: Callable[[Path], None]) -> bool:
        try:
            if path is not None:
                write(path)
        except (OSError, ValueError) as error:
            print(f"roialign doctor: could not write {path}: {error}", file=self.stderr)
            return False
        return True

    def _dump(self, path: Path, values: object) -> None:
        text = json.dumps(values, indent=2) + "\n"
        if str(path) != _STDOUT:
            path.write_text(text, encoding="utf-8")
            return
        self.stdout.write(text)
        self.stdout.flush()


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
            print(saved.about, end="\n\n", file=sys.stderr)
            return 0, Report([saved.diagnose()])

        return examine
    if request.module is not None:
        module = request.module
        return lambda: _watched(lambda: _run_module(module, request.program))
    if not request.program:
        raise ValueError("expected SCRIPT, -m MODULE or --call FILE; see roialign doctor --help")
    script, *arguments = request.program
    if not Path(script).is_file():
        raise ValueError(f"there is no file {script}")
    return lambda: _watched(lambda: _run_script(script, arguments))


def _watched(run_program: Callable[[], object]) -> tuple[int, Report]:
    """Run a program to its end, however it ends; its exit status and what was seen."""
    sites = CallSites()
    with watch() as report:
        status, error = _to_its_end(run_program)
    raised_in = post_mortem(error, sites)
    if raised_in is not None:
        report = Report([*report.calls, raised_in])
    return status, report


def _to_its_end(run_program: Callable[[], object]) -> tuple[int, BaseException | None]:
    """The program's exit status, and what it raised."""
    argv, path, stderr = sys.argv, sys.path[:], sys.stderr
    try:
        run_program()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0, None
        print(stop.code, file=stderr)
        return 1, None
    except KeyboardInterrupt:
        print("roialign doctor: interrupted; this is what was seen until then", file=stderr)
        return 128 + signal.SIGINT, None
    except _NoModuleError:
        raise
    except BaseException as error:
        _print_as_python_would(error, stderr)
        return 1, error
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0, None


def _run_script(script: str, arguments: Sequence[str]) -> None:
    """Run as `python script arguments` would."""
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


def _run_module(module: str, arguments: Sequence[str]) -> None:
    """Run as `python -m module arguments` would."""
    sys.argv = [module, *arguments]
    sys.path[0] = os.getcwd()
    if _is_missing(module):
        raise _NoModuleError(f"there is no module {module}")
    if not module.endswith(".__main__") and _is_package(module) and _is_missing(f"{module}.__main__"):
        raise _NoModuleError(f"{module} is a package without a module __main__, which -m would run")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _is_missing(module: str) -> bool:
    if not all(module.split(".")):
        return True
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return True
        raise


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _print_as_python_would(error: BaseException, stderr: TextIO) -> None:
    """Print the traceback without the frames that lead to the program."""
    inside = error.__traceback__
    while inside is not None and inside.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        inside = inside.tb_next
    traceback.print_exception(type(error), error, inside, file=stderr)
