"""Builds the C++ kernels, against LibTorch's stable ABI, where torch and a compiler are at hand.

Without them the package installs all the same and its reference implementation serves.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/roialign/ops/cpu")
TORCH_TARGET_VERSION = "0x020a000000000000"  # the oldest torch that the binary runs on: 2.10


class BuildKernels(build_ext):
    """Builds a plain shared library: no Python symbols, one file for every Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class WheelForEveryPython(bdist_wheel):
    """The kernels depend on the platform, not on the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def kernels() -> list[Extension]:
    try:
        import torch
    except ImportError:
        print(
            "roialign: torch is not installed, so its C++ kernels are not built. Install torch first, then this "
            "package with pip install --no-build-isolation.",
            file=sys.stderr,
        )
        return []
    root = Path(torch.__file__).parent
    return [
        Extension(
            "roialign.ops.cpu._kernels",
            sources=[str(path) for path in sorted(SOURCES.glob("*.cpp"))],
            depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
            include_dirs=[str(root / "include")],
            library_dirs=[str(root / "lib")],
            libraries=["torch_cpu"],
            define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION), ("TORCH_STABLE_ONLY", None)],
            extra_compile_args=["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelForEveryPython})
