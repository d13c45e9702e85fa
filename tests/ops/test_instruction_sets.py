"""Each instruction set that the kernels are compiled for, whatever this machine's best one is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .instruction_sets import check_roi_align, supported

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.kernels


def run(capability: str, *arguments: str) -> str:
    """The output of Python with the kernels asked for this instruction set."""
    env = os.environ | {"ROIALIGN_CPU_CAPABILITY": capability}
    child = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout}\n{child.stderr[-3000:]}"
    return child.stdout


def test_every_way_through_the_kernels_gives_the_references_numbers():
    assert check_roi_align() > 80


@pytest.mark.parametrize("capability", supported()[:-1])
def test_so_do_the_lesser_sets(capability):
    assert capability in run(capability, "-m", "tests.ops.instruction_sets", capability, "5")


@pytest.mark.parametrize("capability", supported()[:-1])
@pytest.mark.parametrize(
    "chosen",
    [
        "(every_type or kernels_equal) and (dtype0 or dtype3)",
        pytest.param("(every_type or kernels_equal) and (dtype1 or dtype2)", marks=pytest.mark.rare),
        pytest.param("large_calls or taken_at_once or not_finite or off_the_map", marks=pytest.mark.rare),
    ],
)
def test_operators_with_kernels_of_their_own(capability, chosen):
    files = [f"tests/ops/test_{name}.py" for name in ("roi_align_rotated", "masked_roi_align", "roi_align_max")]
    run(capability, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen)


def test_an_unknown_name_means_the_best():
    script = "from roialign.ops import backends; print(backends.cpu_capability())"
    assert run("sse9", "-c", script).strip() == supported()[-1]
