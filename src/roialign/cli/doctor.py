"""`roialign doctor`: runs a program under watch and prints what was found."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from roialign.doctor.findings import Diagnosis, Report
from roialign.doctor.report.terminal import render
from roialign.doctor.watch import post_mortem, watch


def run(script: Path, arguments: Sequence[str], report_path: Path | None) -> int:
    """Run `script` with `arguments`; the exit status that the command should have."""
    if not script.is_file():
        print(f"roialign doctor: there is no file {script}", file=sys.stderr)
        return 2
    with watch() as report:
        status, raised_in = _run_as_main(script, arguments)
    if raised_in is not None and not _was_examined(raised_in, report):
        report = Report([*report.calls, raised_in])
    sys.stdout.flush()
    render(report, Console(stderr=True))
    if report_path is not None:
        report.save(report_path)
        print(f"Report with pictures: {report_path}", file=sys.stderr)
    found_errors = any(finding.severity == "error" for finding in report.findings)
    return status or int(found_errors)


def _was_examined(raised_in: Diagnosis, report: Report) -> bool:
    """Whether the call that raised is the last one that was watched, which then got as far as the operator."""
    last = report.calls[-1] if report.calls else None
    return last is not None and last.call_site == raised_in.call_site and not last.ok


def _run_as_main(script: Path, arguments: Sequence[str]) -> tuple[int, Diagnosis | None]:
    """Run `script` as `python script arguments` would; its exit status, and the RoI call that it raised in."""
    argv, path = sys.argv, sys.path[:]
    sys.argv = [str(script), *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0, None
        print(stop.code, file=sys.stderr)
        return 1, None
    except KeyboardInterrupt:
        print("roialign doctor: interrupted; this is what was seen until then", file=sys.stderr)
        return 128 + signal.SIGINT, None
    except BaseException as error:
        _print_as_python_would(error, script)
        return 1, post_mortem(error.__traceback__)
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0, None


def _print_as_python_would(error: BaseException, script: Path) -> None:
    """Print the traceback without the frames that lead to the script."""
    inside = error.__traceback__
    while inside is not None and inside.tb_frame.f_code.co_filename != str(script):
        inside = inside.tb_next
    traceback.print_exception(type(error), error, inside or error.__traceback__)
