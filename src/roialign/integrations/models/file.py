"""Backbones that a user's file builds, and what to say where it fails."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from roialign.integrations.models.common import ModelError, near

_LONGEST = 300  # signs of an error's own message


def from_file(model: str) -> nn.Module:
    """The module that path.py:callable returns."""
    path_text, _, name = model.rpartition(":") if not model.endswith(".py") else (model, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise ModelError(f"expected path.py:callable; there is no file {path}")
    if not name:
        raise ModelError(f"expected path.py:callable; got {model} without a callable. {_offered(path)}")
    with _failures_of(path, str(path)):
        module = _run(path)
    made = getattr(module, name, None)
    if made is None:
        raise ModelError(f"{path} has no {name!r}{near(name, [known for known in vars(module) if known[0] != '_'])}")
    if isinstance(made, nn.Module):
        return made
    _check_callable(made, model)
    with _failures_of(path, model):
        built = made()
    if not isinstance(built, nn.Module):
        raise ModelError(f"expected {model} to return a torch.nn.Module; got {_kind(built)}")
    return built


def line_in(error: BaseException, path: Path) -> int | None:
    """The line of a file that an error came from or passed through last."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).absolute() == path.absolute():
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path.absolute()]
    return lines[-1] if lines else None


def _run(path: Path) -> Any:
    """The file as a module, which finds what lies beside it, as a script does."""
    spec = importlib.util.spec_from_file_location(f"_roialign_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"expected a Python file; got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    sys.path.insert(0, str(path.absolute().parent))
    spec.loader.exec_module(module)
    return module


@contextmanager
def _failures_of(path: Path, what: str) -> Iterator[None]:
    """Turns what a user's file raises into one message with the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        line = line_in(error, path)
        where = f" in line {line}" if line is not None else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        text = textwrap.shorten(said, _LONGEST, placeholder=" ...")
        raise ModelError(f"{what} raised {type(error).__name__}{where}{': ' if text else ''}{text}") from error


def _check_callable(made: Any, model: str) -> None:
    if not callable(made):
        raise ModelError(f"expected {model} to be a torch.nn.Module or a function that returns one; got {_kind(made)}")
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return
    required = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if required:
        name = model.rpartition(":")[2]
        raise ModelError(
            f"expected a callable that needs no arguments; {model} needs {', '.join(required)}. Pass them in your "
            f"own function, def backbone(): return {name}(...), and name that one, path.py:backbone"
        )


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _offered(path: Path) -> str:
    """The functions and classes of a file that is not run for it."""
    try:
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        nodes = []
    names = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]
    return f"Such as {', '.join(f'{path}:{name}' for name in names[:4])}" if names else "Type its name after a colon"
