"""Builds the C++ kernels with AddressSanitizer and UndefinedBehaviorSanitizer, and runs their tests against them.

In a temporary folder, next to a copy of the package: the installed kernels stay as they are. Exits 1, after the
report, if anything was found.
"""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
PACKAGE, BINARY = "src/roialign", "src/roialign/ops/cpu/_kernels.so"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
CHECKED = ["-D_GLIBCXX_ASSERTIONS", "-D_GLIBCXX_SANITIZE_VECTOR"]  # the memory of vectors beyond their size, too
LESS_OPTIMIZED = ["-O1", "-fexpensive-optimizations"]  # the latter fuses multiply and add, as -O3 does
FLAGS = [*SANITIZE, *CHECKED, "-fno-omit-frame-pointer", *LESS_OPTIMIZED, "-g"]  # replace setup.py's -O3
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")
HOSTILE_CALLS = "1500"


def build(root: Path) -> None:
    """Compile the sources below `root` as setup.py would, with FLAGS added."""
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    (extension,) = setup["kernels"]()
    macros = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in extension.define_macros]
    includes = [f"-I{path}" for path in extension.include_dirs]
    libraries = [*(f"-L{path}" for path in extension.library_dirs), *(f"-l{name}" for name in extension.libraries)]

    def compiled(source: Path) -> str:
        own = setup["FLAGS_OF"].get(source.name, setup["EXACT"])
        target = source.with_suffix(".o")
        options = [*extension.extra_compile_args, *own, *macros, *includes, *FLAGS]
        subprocess.run(["g++", "-fPIC", *options, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        objects = list(workers.map(compiled, sorted((root / BINARY).parent.glob("*.cpp"))))
    subprocess.run(["g++", "-shared", *SANITIZE, *objects, *libraries, "-o", str(root / BINARY)], check=True)


def environment(root: Path) -> dict[str, str]:
    def found(name: str) -> str:
        path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        if not Path(path.stdout.strip()).is_absolute():
            sys.exit(f"g++ has no {name}; it comes with the compiler's package of sanitizers")
        return path.stdout.strip()

    return os.environ | {
        "LD_PRELOAD": " ".join(found(name) for name in LIBRARIES),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python's leaks; hostile sizes
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(root / "src"),
    }


def calls() -> Iterator[tuple[str, list[str]]]:
    """Instruction set, and what is run with it."""
    sys.path.insert(0, str(ROOT))
    from tests.ops.instruction_sets import supported

    for capability in supported():
        yield capability, ["-m", "tests.ops.instruction_sets", capability]
        yield capability, ["tests/ops/hostile.py", HOSTILE_CALLS]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root, begin = Path(folder), time.perf_counter()
        shutil.copytree(ROOT / PACKAGE, root / PACKAGE, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        print(f"building the kernels with {' '.join(FLAGS)}", flush=True)
        build(root)
        env = environment(root)
        where = "import roialign; from roialign.ops import native; print(native.why_not or native.CPU_LIBRARY)"
        loaded = subprocess.run([sys.executable, "-c", where], env=env, capture_output=True, text=True)
        if loaded.stdout.strip() != str(root / BINARY):
            print(f"the sanitized kernels do not serve: {loaded.stdout}{loaded.stderr}", file=sys.stderr)
            return 1
        for capability, arguments in calls():
            print(f"{capability}: python {' '.join(arguments)}", flush=True)
            child_env = env | {"ROIALIGN_CPU_CAPABILITY": capability}
            if code := subprocess.run([sys.executable, *arguments], cwd=ROOT, env=child_env).returncode:
                print(f"failed with exit code {code}: see above", file=sys.stderr)
                return 1
        print(f"nothing found, in {time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
