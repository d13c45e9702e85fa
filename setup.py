"""Builds the C++ kernels, against LibTorch's stable ABI. pyproject.toml names torch as needed to build: pip brings it.

Where there is no C++20 compiler the package installs all the same, and its reference implementation serves: the first
call says so, and `roialign env`.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/roialign/ops/cpu")
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-g0"]  # Python's own flags have -g: ten times the size
# Positions and plans are computed with torchvision's roundings; the inner loops may fuse multiply and add.
EXACT, FUSED = ["-ffp-contract=off"], ["-ffp-contract=fast"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS_OF = {
    "isa_baseline.cpp": [*FUSED, "-Wno-psabi"],  # vectors wider than its registers never leave the file
    "isa_avx2.cpp": FUSED + (AVX2 if X86 else []),
    "isa_avx512.cpp": FUSED + (AVX512 if X86 else []),
}
TORCH_TARGET_VERSION = "0x020a000000000000"  # the oldest torch that the binary runs on: 2.10


class BuildKernels(build_ext):
    """Builds a plain shared library: no Python symbols, one file for every Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compiles each file with its own flags: the inner loops are there once for each instruction set."""
        compile_one = self.compiler._compile

        def compile_with_its_flags(
            obj: str, source: str, ext: str, cc: list[str], extra: list[str], pp: list[str]
        ) -> None:
            compile_one(obj, source, ext, cc, [*extra, *FLAGS_OF.get(Path(source).name, EXACT)], pp)

        self.compiler._compile = compile_with_its_flags
        super().build_extension(ext)


class WheelForEveryPython(bdist_wheel):
    """The kernels depend on the platform, not on the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def kernels() -> list[Extension]:
    try:
        import torch
    except ImportError:
        print(
            "roialign: torch is not installed, so its C++ kernels are not built. Install torch first, or leave out "
            "--no-build-isolation.",
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
            extra_compile_args=FLAGS,
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelForEveryPython})
