"""Saved models in processes that have the library of kernels alone: programs, archives and packages, in C++ too."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import roialign

from .public import CALLS
from .test_native import run

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::DeprecationWarning")]

WITHOUT_KERNELS = ("paste_masks", "paste_masks, values")
AUTO = torch.export.Dim.AUTO
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "cpp"


class Of(nn.Module):
    """A function with what it takes beside tensors: sizes would be constants of an exported program."""

    def __init__(self, function: Callable[..., Tensor], *rest: Any) -> None:
        super().__init__()
        self.function, self.rest = function, rest

    def forward(self, first: Any, second: Any, third: Tensor | None = None) -> Tensor:
        return self.function(*(one for one in (first, second, third) if one is not None), *self.rest)


def pooled_from_images(maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
    """Scales that are inferred from sizes which the program keeps open."""
    size = 8 * maps["coarse"].shape[2], 8 * maps["coarse"].shape[3]
    return roialign.MultiScaleRoIAlign(["fine", "coarse"], 3, 2)(maps, boxes, [size, size])


def exportable(name: str, size: tuple[int, int, int]) -> tuple[Of, tuple[Any, ...]]:
    function, arguments = CALLS[name](*size)
    if name == "MultiScaleRoIAlign":
        return Of(pooled_from_images), arguments[:2]
    rest = [one for one in arguments if isinstance(one, int)]
    return Of(function, *rest), tuple(one for one in arguments if not isinstance(one, int))


RUN_ALL = """
import sys, torch
torch.ops.load_library(sys.argv[1])
for path in sys.argv[2:]:
    inputs, expected = torch.load(path + ".pt")
    found = torch.export.load(path + ".pt2").module()(*inputs)
    torch.testing.assert_close(found, expected, msg=lambda text: path + ": " + text)
    print(path)
assert "roialign" not in sys.modules
"""


SOME = ["roi_align of lists", "MultiScaleRoIAlign"]
REST = [name for name in CALLS if name not in (*SOME, *WITHOUT_KERNELS)]


@pytest.mark.parametrize("names", [SOME, pytest.param(REST, marks=pytest.mark.rare)], ids=["some", "rest"])
def test_exported_programs_take_any_size_with_the_library_alone(names, tmp_path):
    paths = []
    for index, name in enumerate(names):
        module, example = exportable(name, (10, 12, 5))
        shapes = tree_map_only(Tensor, lambda one: (AUTO,) * one.dim(), example)
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        assert len([node for node in program.graph.nodes if "roialign" in str(node.target)]) == 1, name
        _, inputs = exportable(name, (14, 20, 9))
        paths.append(tmp_path / str(index))
        torch.export.save(program, f"{paths[-1]}.pt2")
        torch.save((inputs, module(*inputs)), f"{paths[-1]}.pt")
    assert run(RUN_ALL, *paths).split() == [str(path) for path in paths]


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = roialign.RoIAlign(2, 1.0, 2, True)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return self.pool(features, rois)


FEATURES = torch.arange(64.0).reshape(1, 1, 8, 8)  # those of examples/cpp/main.cpp
ROIS = torch.tensor([[0.0, 1, 2, 5, 6], [0, 0, 0, 8, 4]])

RUN_ARCHIVE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
inputs = torch.arange(64.0).reshape(1, 1, 8, 8), torch.tensor([[0.0, 1, 2, 5, 6], [0, 0, 0, 8, 4]])
model = torch.jit.load(sys.argv[2]) if sys.argv[2].endswith(".pt") else torch._inductor.aoti_load_package(sys.argv[2])
print(*model(*inputs).flatten().tolist())
assert "roialign" not in sys.modules
"""


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, (FEATURES, ROIS))])
def test_archives_run_with_the_library_alone(make, tmp_path):
    make(Pooler()).save(tmp_path / "pooler.pt")
    torch.testing.assert_close(numbers(run(RUN_ARCHIVE, tmp_path / "pooler.pt")), Pooler()(FEATURES, ROIS).flatten())


@pytest.mark.rare
def test_archives_and_packages_run_in_cpp(tmp_path):
    """The example, built as its first lines say; and AOTInductor's package in Python without roialign."""
    if missing := [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]:
        pytest.skip(f"there is no {missing[0]} here")
    torch.jit.script(Pooler()).save(tmp_path / "pooler.pt")
    shapes = {}, {0: torch.export.Dim("boxes", min=2)}
    program = torch.export.export(Pooler(), (FEATURES, ROIS.repeat(2, 1)), dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "pooler.pt2"))
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", tmp_path / "build", f"-DTORCH={Path(torch.__file__).parent}"],
        ["cmake", "--build", tmp_path / "build"],
    ):
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stdout + built.stderr
    expected = Pooler()(FEATURES, ROIS).flatten()
    torch.testing.assert_close(numbers(run(RUN_ARCHIVE, tmp_path / "pooler.pt2")), expected)
    for model in ("pooler.pt", "pooler.pt2"):
        command = [tmp_path / "build" / "run", roialign.library_path(), tmp_path / model]
        child = subprocess.run(command, capture_output=True, text=True)
        assert child.returncode == 0, child.stderr
        torch.testing.assert_close(numbers(child.stdout), expected)
