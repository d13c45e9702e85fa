"""`roialign run`: a program as Python would run it, with `enable` on."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from roialign import disable
from roialign.cli.app import app

from .test_cli import roialign, script

PROGRAM = """\
import sys
import torch
from torchvision.ops import roi_align
features = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)  # which torchvision's own kernel refuses
print(__name__, sys.argv[1:], roi_align(features, torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 1).item())
"""


@pytest.mark.kernels
def test_an_unchanged_program_runs_on_the_kernels(tmp_path: Path) -> None:
    path = script(tmp_path, PROGRAM + "sys.exit(7)\n")
    done = roialign("run", path, "--report", "x")
    assert (done.returncode, done.stdout, done.stderr) == (7, "__main__ ['--report', 'x'] 1.0\n", "")


@pytest.mark.kernels
def test_a_module_does_and_what_it_raises_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    script(tmp_path, PROGRAM + "raise KeyError('later')\n")
    done = roialign("run", "-m", "program", "-v", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "__main__ ['-v'] 1.0\n")
    assert done.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert done.stderr.splitlines()[-1] == "KeyError: 'later'"
    assert "runpy" not in done.stderr
    assert "roialign" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected SCRIPT or -m MODULE; see roialign run --help"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["-m", "nowhere"], "there is no module nowhere"),
    ],
)
def test_what_cannot_be_run_is_named(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["run", *arguments])
    disable()
    assert done.exit_code == 2
    assert f"roialign run: {words}" in done.stderr
