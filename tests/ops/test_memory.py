"""What a call takes beside its result: no copy of a map or of a gradient, and plans of bounded size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .memory import CALLS

ALLOWED = 16  # megabytes beside the result: 8 of float32 sums for half gradients, 6 of plans, what threads need

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory can be measured on Linux only"),
]


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    """Of a child that forks for each call: a fork of this process would have torch's threads half."""
    command = [sys.executable, "-m", "tests.ops.memory"]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_takes_little_more_than_its_result(name, peaks):
    assert peaks[name] <= ALLOWED, f"{peaks[name]:.1f} MB beside the result"
