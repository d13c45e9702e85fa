"""Holds roi_align(compat="mmcv") and roi_align_rotated(compat="mmcv") against mmcv's own CPU kernels.

Fetches mmcv's source distribution from PyPI, compiles the four files of these operators (some 2 minutes, with g++) and
compares 400 random configurations, values and gradients to the features. mmcv itself is not installed: building all of
it takes 20 minutes. Exits 1 if anything differs by more than float32 rounds.
"""

import hashlib
import importlib.util
import math
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.utils import cpp_extension

import roialign

URL = "https://files.pythonhosted.org/packages/e9/a2/57a733e7e84985a8a0e3101dfb8170fc9db92435c16afad253069ae3f9df/"
NAME, SHA256 = "mmcv-2.2.0", "ac479247e808d8802f89eadf04d4118de86bdfe81361ec5aed0cc1bf731c67c9"
SOURCES = ("roi_align.cpp", "roi_align_rotated.cpp", "cpu/roi_align.cpp", "cpu/roi_align_rotated.cpp")
BINDING = """
#include <torch/extension.h>
using at::Tensor;
void roi_align_forward(Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, bool);
void roi_align_backward(Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, bool);
void roi_align_rotated_forward(Tensor, Tensor, Tensor, int, int, float, int, bool, bool);
void roi_align_rotated_backward(Tensor, Tensor, Tensor, int, int, float, int, bool, bool);
PYBIND11_MODULE(mmcv_kernels, m) {
  m.def("roi_align_forward", &roi_align_forward);
  m.def("roi_align_backward", &roi_align_backward);
  m.def("roi_align_rotated_forward", &roi_align_rotated_forward);
  m.def("roi_align_rotated_backward", &roi_align_rotated_backward);
}
"""
CONFIGURATIONS, TOLERANCE = 400, 1e-5  # relative to the largest feature, or value of the gradient
MAX, MEAN = 0, 1  # mmcv's numbers for its modes
NO_SAMPLES = -10000  # mmcv's maximum of none, which is not reproduced


def build(folder: Path) -> ModuleType:
    """The extension of mmcv's kernels, compiled in `folder`."""
    print(f"fetching {NAME} ...", flush=True)
    try:
        archive = urllib.request.urlopen(f"{URL}{NAME}.tar.gz").read()
    except OSError as error:
        sys.exit(f"{NAME}.tar.gz could not be fetched from PyPI: {error}")
    if hashlib.sha256(archive).hexdigest() != SHA256:
        sys.exit(f"{NAME}.tar.gz is not the file that this script was written for")
    (folder / "mmcv.tar.gz").write_bytes(archive)
    with tarfile.open(folder / "mmcv.tar.gz") as file:
        file.extractall(folder, filter="data")
    root = folder / NAME / "mmcv" / "ops" / "csrc"
    (folder / "binding.cpp").write_text(BINDING)
    print("compiling its kernels ...", flush=True)
    included = [root / "common", root / "pytorch", *cpp_extension.include_paths(), sysconfig.get_path("include")]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    libraries += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    sources = [folder / "binding.cpp", *(root / "pytorch" / name for name in SOURCES)]
    target = folder / "mmcv_kernels.so"
    command = ["g++", "-shared", "-fPIC", "-O2", "-std=c++20", "-w", *(f"-I{path}" for path in included)]
    subprocess.run([*command, *map(str, sources), *libraries, "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location("mmcv_kernels", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worst:
    """The largest difference of each comparison."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[int, float]] = {}

    def add(self, what: str, ours: Tensor, theirs: Tensor, largest: Tensor) -> None:
        count, worst = self.of.get(what, (0, 0.0))
        difference = float((ours - theirs).abs().max() / largest.abs().max().clamp(min=1e-9))
        self.of[what] = count + 1, max(worst, difference)


def compare(mmcv: ModuleType, number: int, worst: Worst) -> None:
    """One configuration: boxes inside, partly and wholly off the map."""
    generator = torch.Generator().manual_seed(number)
    height, width, channels, count, *size_hw = (
        int(torch.randint(low, high, (), generator=generator))
        for low, high in ((3, 40), (3, 40), (1, 9), (1, 20), (1, 8), (1, 8))
    )
    stride, ratio, aligned, clockwise = (1, 4, 16)[number % 3], number % 4, bool(number // 4 % 2), bool(number // 8 % 2)
    extent = torch.tensor([width, height]) * stride
    features = torch.randn(2, channels, height, width, generator=generator)
    images = torch.randint(2, (count, 1), generator=generator).float()
    centres = (torch.rand(count, 2, generator=generator) * 1.6 - 0.3) * extent
    sides = (torch.rand(count, 2, generator=generator) * 0.8 + 0.01) * extent
    radians = (torch.rand(count, 1, generator=generator) - 0.5) * 4 * math.pi
    upstream = torch.randn(count, channels, *size_hw, generator=generator)
    sampling = (*size_hw, 1 / stride, ratio)

    rois = torch.cat([images, centres - sides / 2, centres + sides / 2], 1)
    compat = "mmcv" if aligned else None  # mmcv's aligned=False is torchvision's rule
    for mode, code in (("avg", MEAN), ("max", MAX)):
        leaf, theirs, gradient = features.clone().requires_grad_(), torch.zeros_like(upstream), features * 0
        places = (theirs.clone(), theirs.clone())
        mmcv.roi_align_forward(features, rois, theirs, *places, *sampling, code, aligned)
        mmcv.roi_align_backward(upstream, rois, *places, gradient, *sampling, code, aligned)
        ours = roialign.roi_align(leaf, rois, size_hw, 1 / stride, ratio, aligned, mode=mode, compat=compat)
        sampled = theirs != NO_SAMPLES
        (upstream * sampled * ours).sum().backward()
        what = f'roi_align, mode="{mode}", aligned={aligned}'
        worst.add(what, ours.detach()[sampled], theirs[sampled], features)
        worst.add(f"{what}: gradient", leaf.grad, gradient, gradient)

    turned = torch.cat([images, centres, sides, radians], 1)
    leaf, theirs, gradient = features.clone().requires_grad_(), torch.zeros_like(upstream), features * 0
    mmcv.roi_align_rotated_forward(features, turned, theirs, *sampling, aligned, clockwise)
    mmcv.roi_align_rotated_backward(upstream, turned, gradient, *sampling, aligned, clockwise)
    ours = roialign.roi_align_rotated(
        leaf, turned, size_hw, 1 / stride, ratio, compat="mmcv", aligned=aligned, clockwise=clockwise
    )
    ours.backward(upstream)
    what = f"roi_align_rotated, aligned={aligned}, clockwise={clockwise}"
    worst.add(what, ours.detach(), theirs, features)
    worst.add(f"{what}: gradient", leaf.grad, gradient, gradient)


def main() -> int:
    roialign.set_policy("ignore")
    worst = Worst()
    with tempfile.TemporaryDirectory() as folder:
        mmcv = build(Path(folder))
        for number in range(CONFIGURATIONS):
            compare(mmcv, number, worst)
    print("configurations and largest difference, relative to the largest value:")
    for what, (count, difference) in sorted(worst.of.items()):
        print(f"{what:60}{count:5}{difference:9.1e}")
    return int(any(difference > TOLERANCE for _, difference in worst.of.values()))


if __name__ == "__main__":
    sys.exit(main())
