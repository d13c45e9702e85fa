"""A program that runs inside of the command, from its first line to its end, as Python would run it."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  it cannot be imported any more when threads have been waited for
import contextlib
import importlib.util
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

_ON_THE_WAY = ("roialign.cli.", "runpy")  # modules whose frames lead to the program
_INTERRUPTED = 128 + signal.SIGINT


class NoModuleError(Exception):
    """A module that cannot be run, found out when its packages are imported."""


def to_its_end(
    run_program: Callable[[], object], stderr: TextIO, own_process: bool = False
) -> tuple[int, BaseException | None]:
    """The program's exit status, and what it raised.

    Args:
        run_program: runs it, up to its last line.
        stderr: where to say how it ended.
        own_process: whether the process ends with the program: then also what Python does after the last line is
            done, so that it can be watched. Threads are waited for, and functions of `atexit` are called.
    """
    with _arguments_put_back(), _saying_what_ends_the_process(stderr):
        if not own_process:
            return _looked_at(run_program, stderr)
        with _FunctionsAtExit() as at_exit:
            status, error = _looked_at(run_program, stderr)
            try:
                threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does it
                at_exit.call(stderr)
            except KeyboardInterrupt:
                status = _interrupted(stderr)
    return status, error


def _looked_at(run_program: Callable[[], object], stderr: TextIO) -> tuple[int, BaseException | None]:
    status, error = _to_its_last_line(run_program, stderr)
    return (_interrupted(stderr), None) if isinstance(error, KeyboardInterrupt) else (status, error)


def to_its_last_line(run_program: Callable[[], object], stderr: TextIO) -> int:
    """The program's exit status, of one that nobody looks at: Python ends it as it ends any other."""
    with _arguments_put_back():
        status, error = _to_its_last_line(run_program, stderr)
    if isinstance(error, KeyboardInterrupt):
        _show_as_python_would(error, stderr)
    return status


@contextlib.contextmanager
def _arguments_put_back() -> Iterator[None]:
    argv, path, hook = sys.argv, sys.path[:], sys.excepthook
    sys.excepthook = sys.__excepthook__  # that of the command's own libraries is none of the program's
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.excepthook = argv, path, hook


def runner(program: Sequence[str], module: str | None) -> Callable[[], object]:
    """What runs SCRIPT [ARGS], or with a module its [ARGS].

    Raises:
        ValueError: if there is no such script.
    """
    if module is not None:
        return lambda: run_module(module, program)
    script, *arguments = program
    if not Path(script).is_file():
        raise ValueError(f"there is no file {script}")
    return lambda: run_script(script, arguments)


def run_script(script: str, arguments: Sequence[str]) -> None:
    """Run as `python script arguments` would."""
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Run as `python -m module arguments` would.

    Raises:
        NoModuleError: if there is none that can be run.
    """
    sys.argv = [module, *arguments]
    sys.path[0] = os.getcwd()
    if _is_missing(module):
        raise NoModuleError(f"there is no module {module}")
    if not module.endswith(".__main__") and _is_package(module) and _is_missing(f"{module}.__main__"):
        raise NoModuleError(f"{module} is a package without a module __main__, which -m would run")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _to_its_last_line(run_program: Callable[[], object], stderr: TextIO) -> tuple[int, BaseException | None]:
    try:
        run_program()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0, None
        say(str(stop.code), stderr)
        return 1, None
    except KeyboardInterrupt as error:
        return _INTERRUPTED, error
    except NoModuleError:
        raise
    except BaseException as error:
        _show_as_python_would(error, stderr)
        return 1, error
    return 0, None


class _FunctionsAtExit:
    """Takes what the program registers with `atexit`, of which the report is to tell.

    What others have registered before, torch among them, takes down what the report is made with: it stays for later.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._process = os.getpid()  # those that it forks have an end of their own
        self._register, self._unregister = atexit.register, atexit.unregister

    def __enter__(self) -> _FunctionsAtExit:
        atexit.register, atexit.unregister = self.register, self.unregister  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        atexit.register, atexit.unregister = self._register, self._unregister

    def register(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if os.getpid() != self._process:
            return self._register(function, *args, **kwargs)
        self._calls.append((function, args, kwargs))
        return function

    def unregister(self, function: Callable[..., Any]) -> None:
        self._calls = [call for call in self._calls if call[0] != function]
        self._unregister(function)

    def call(self, stderr: TextIO) -> None:
        """Call the functions, the last one first, and those that they register."""
        while self._calls:
            function, args, kwargs = self._calls.pop()
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                raise
            except BaseException:  # as Python, which goes on with the next one
                say(f"Exception ignored in atexit callback {function!r}:\n{traceback.format_exc().rstrip()}", stderr)


def _interrupted(stderr: TextIO) -> int:
    say("roialign doctor: interrupted; this is what was seen so far", stderr)
    return _INTERRUPTED


@contextlib.contextmanager
def _saying_what_ends_the_process(stderr: TextIO) -> Iterator[None]:
    """Say it where the program ends or replaces its process at once, with which the report goes, too."""
    process = os.getpid()  # those that it forks are free to end like this
    replaced = {name: getattr(os, name) for name in ("_exit", "execv", "execve")}

    def saying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def said(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() == process:
                say(
                    f"roialign doctor: the program ended itself with os.{name}, and the report was lost. End it "
                    "with sys.exit, or put `with roialign.watch() as report:` around what you want to examine, and "
                    "print(report).",
                    stderr,
                )
            return function(*args, **kwargs)

        return said

    ours = {name: saying(name, function) for name, function in replaced.items()}
    for name, function in ours.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        for name, function in replaced.items():
            if getattr(os, name) is ours[name]:
                setattr(os, name, function)


def or_nowhere(stream: TextIO | None) -> TextIO:
    """The stream; one that leads nowhere in place of one that was closed before Python began."""
    return stream if stream is not None else open(os.devnull, "w")


def say(words: str, stream: TextIO) -> None:
    """Print, or do without where there is nothing to print to."""
    with contextlib.suppress(OSError, ValueError):
        print(words, file=stream, flush=True)


def _show_as_python_would(error: BaseException, stderr: TextIO) -> None:
    """Give the error to the program's `sys.excepthook`, without the frames that lead to the program."""
    inside = error.__traceback__
    while inside is not None and inside.tb_frame.f_globals.get("__name__", "").startswith(_ON_THE_WAY):
        inside = inside.tb_next
    error.__traceback__ = inside
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, inside)
            return
    except SystemExit:
        return
    except BaseException as in_the_hook:
        say("Error in sys.excepthook:\n" + "".join(traceback.format_exception(in_the_hook)), stderr)
        say("Original exception was:", stderr)
    say("".join(traceback.format_exception(error)).removesuffix("\n"), stderr)


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
