"""The library of kernels by itself, in processes that load it and import nothing of roialign."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from roialign.ops import native, registered

from .test_dispatch import IMAGES, ROIS, TensorHead

pytestmark = pytest.mark.kernels

IN_PYTHON = ("paste_masks", "paste_masks_backward")  # without a kernel

SCHEMAS = """
import sys, torch
torch.ops.load_library(sys.argv[1])
for name in sorted(torch._C._dispatch_get_all_op_names()):
    if name.startswith("roialign::"):
        print(torch._C._get_schema(name, ""))
assert "roialign" not in sys.modules
"""
RUN = """
import sys, torch
torch.ops.load_library(sys.argv[1])
program = torch.export.load(sys.argv[2])
torch.save(program.module()(*torch.load(sys.argv[3])), sys.argv[4])
assert "roialign" not in sys.modules
"""

COPIES = """
import shutil, sys, torch
first, second = (shutil.copy(sys.argv[1], path) for path in sys.argv[2:])
torch.ops.load_library(first)
import roialign
from roialign.ops import backends, native
assert native.why_not is None
assert backends.serving("roi_align", "cpu") == "C++"
torch.ops.load_library(second)
print(roialign.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]]), 1).item())
"""


def run(script: str, *arguments: object) -> str:
    """The output of a process that knows the library by its path alone."""
    command = [sys.executable, "-c", script, str(native.CPU_LIBRARY), *map(str, arguments)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_the_library_defines_the_schemas_that_python_would():
    expected = [
        str(torch._C.parse_schema(f"roialign::{name}{schema}"))
        for name, schema in registered.SCHEMAS.items()
        if name not in IN_PYTHON
    ]
    assert sorted(run(SCHEMAS).splitlines()) == sorted(expected)


class Pyramid(nn.Module):
    """Pools from two maps, with an operator that takes lists."""

    def forward(self, images: Tensor, rois: Tensor) -> Tensor:
        maps = [images, nn.functional.avg_pool2d(images, 2)]
        levels = torch.arange(len(ROIS)) % 2
        cells = [1.0, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
        return torch.ops.roialign.multi_scale_roi_align(maps, rois, levels, cells, 3, 3, 2, False)[0]


@pytest.mark.parametrize("module", [TensorHead(), Pyramid()], ids=["one map", "two maps"])
def test_an_exported_program_runs_with_the_library_alone(module: nn.Module, tmp_path: Path) -> None:
    program = torch.export.export(module, (IMAGES, ROIS))
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((IMAGES, ROIS), tmp_path / "inputs.pt")
    run(RUN, tmp_path / "program.pt2", tmp_path / "inputs.pt", tmp_path / "output.pt")
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), module(IMAGES, ROIS))


def test_copies_of_the_library_in_one_process_do_no_harm(tmp_path: Path) -> None:
    assert run(COPIES, tmp_path / "first.so", tmp_path / "second.so").strip() == "1.0"
