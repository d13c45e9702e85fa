"""`import roialign` brings torch and nothing heavy, and takes little longer than torch does."""

import json
import os
import statistics
import subprocess
import sys

import pytest

HEAVY = (
    *("torchvision", "timm", "triton", "ray", "matplotlib", "onnxruntime", "onnx", "jinja2", "PIL", "rich", "typer"),
    "IPython",
)
WITH_TORCH = ("numpy",)  # only if torch imports it
MOST_SECONDS = 0.3
CHILD = """
import json, sys, time
import torch
before, begin = set(sys.modules), time.process_time()
{statement}
seconds = time.process_time() - begin
print(json.dumps([sorted(set(sys.modules) - before), seconds]))
"""


def run_child(statement: str) -> tuple[set[str], float]:
    """The top-level modules that `statement` imports after torch, and the seconds of processor time that it takes.

    What it imports is compiled and kept, as an installed package is.
    """
    child = [sys.executable, "-c", CHILD.format(statement=statement)]
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    modules, seconds = json.loads(subprocess.run(child, capture_output=True, text=True, check=True, env=given).stdout)
    return {module.partition(".")[0] for module in modules}, seconds


@pytest.fixture(scope="module")
def imported() -> set[str]:
    return run_child("import roialign")[0]


@pytest.mark.parametrize("package", HEAVY + WITH_TORCH)
def test_nothing_heavy_is_imported(imported, package):
    assert "roialign" in imported
    assert package not in imported


def test_the_child_sees_what_is_imported():
    assert "jinja2" in run_child("import jinja2")[0]


def test_the_import_is_quick(imported):
    seconds = statistics.median(run_child("import roialign")[1] for _ in range(3))
    assert seconds <= MOST_SECONDS
