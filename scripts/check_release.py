"""Looks at what `make sdist` and `make wheel` left in dist/, and tries the wheel in fresh environments.

    python scripts/check_release.py                         # each Python on the PATH with each torch of the table
    python scripts/check_release.py --torch 2.10 python3.11
    python scripts/check_release.py --smoke                 # this Python with the torch that it has: no download
    python scripts/check_release.py --installed             # only what is installed in this Python

The environments have no compiler on their PATH. Each downloads a torch; PIP_EXTRA_INDEX_URL may name an index that has
them for the CPU alone, which are smaller. Exits 1 if a file is missing or should not be there, or if an environment
does not run the C++ kernels.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TORCHES = ("2.10", "2.11", "2.12", "2.13", "2.14")
BINARY = "roialign/ops/cpu/_kernels.so"
MOST_BYTES = 4_000_000  # of the kernels, without debug information
SOURCES_OF_KERNELS = (".cpp", ".h")


def tracked() -> set[str]:
    """The files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        sys.exit(f"expected a clone, to know which files belong to a release: {listed.stderr.strip()}")
    return set(listed.stdout.splitlines())


def compared(found: set[str], wanted: set[str]) -> Iterator[str]:
    yield from (f"missing: {name}" for name in sorted(wanted - found))
    yield from (f"should not be there: {name}" for name in sorted(found - wanted))


def faults_of_sdist(path: Path, files: set[str]) -> Iterator[str]:
    """What is wrong with a source distribution: it holds the repository, and what setuptools adds."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    yield from compared({name for name in names if ".egg-info/" not in name}, files | {"PKG-INFO", "setup.cfg"})


def faults_of_wheel(path: Path, files: set[str]) -> Iterator[str]:
    """What is wrong with a wheel: it holds src/ without the kernels' sources, and the kernels, stripped."""
    wanted = {name.removeprefix("src/") for name in files if name.startswith("src/")}
    wanted = {name for name in wanted if not name.endswith(SOURCES_OF_KERNELS)} | {BINARY}
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        kernels = archive.read(BINARY) if BINARY in names else b""
    yield from compared(names, wanted)
    if len(kernels) > MOST_BYTES:
        yield f"{BINARY} has {len(kernels)} bytes; expected {MOST_BYTES} at most"
    if b".debug_info" in kernels:
        yield f"{BINARY} has debug information"
    if "-py3-none-" not in path.name or path.name.endswith("-any.whl"):
        yield f"expected a wheel for every Python and one platform; got {path.name}"


def only(pattern: str) -> Path:
    """The one file of dist/ that `pattern` fits."""
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        sys.exit(f"expected one file {DIST / pattern}, from make sdist and make wheel; got {len(found)}")
    return found[0]


def contents_are_right(wheel: Path) -> bool:
    files, sdist = tracked(), only("*.tar.gz")
    of = {sdist: list(faults_of_sdist(sdist, files)), wheel: list(faults_of_wheel(wheel, files))}
    for path, faults in of.items():
        print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB: {'wrong' if faults else 'holds what it should'}")
        print(*(f"  {fault}\n" for fault in faults), sep="", end="", flush=True)
    return not any(of.values())


def installed() -> int:
    """Try what is installed: the command says that the kernels are loaded, and they compute what a reader can."""
    import torch

    import roialign

    plane = torch.arange(64.0).reshape(1, 1, 8, 8)  # 8 y + x at the cell in row y and column x
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
    means = roialign.roi_align(plane, boxes, 2, spatial_scale=1.0, sampling_ratio=2, aligned=True).flatten().tolist()
    expected = [13.5, 17.5, 45.5, 49.5]  # the bins are centred at 1.5 and 5.5, counted in cells
    env = subprocess.run([sysconfig.get_path("scripts") + "/roialign", "env"], capture_output=True, text=True)
    kernels = [line for line in env.stdout.splitlines() if line.startswith("C++ kernels")]
    print(*kernels)
    if env.returncode or not any("loaded" in line for line in kernels):
        print(f"expected loaded C++ kernels; roialign env says:\n{env.stdout}{env.stderr}")
        return 1
    if means != expected:
        print(f"expected {expected} of roi_align; got {means}")
        return 1
    return 0


def environment(python: str, folder: Path, wheel: Path, torch: str | None) -> str | None:
    """Try the wheel in a new environment of `python`; what went wrong, or None."""
    own = folder / "bin" / "python"
    without_compiler = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    without_compiler["PATH"] = str(own.parent)
    if torch is None:  # what this Python has installed is seen behind the new environment's own
        venv.create(folder, with_pip=True)
        behind = Path(next(folder.glob("lib/python*/site-packages"))) / "behind.pth"
        behind.write_text(sysconfig.get_path("purelib") + "\n")
        wanted = [["--ignore-installed", "--no-deps", wheel], [wheel]]  # then what it needs and is not there
    else:
        subprocess.run([python, "-m", "venv", folder], check=True)
        wanted = [[f"torch=={torch}.*", wheel]]
    pip = [own, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary", ":all:"]
    for command in (*([*pip, *what] for what in wanted), [own, Path(__file__).resolve(), "--installed"]):
        done = subprocess.run(command, cwd=folder, env=without_compiler, capture_output=True, text=True)
        if done.returncode:
            return f"{done.stdout}{done.stderr}"
    print(f" {' '.join(done.stdout.split())}", end="", flush=True)
    return None


def version_of(python: str) -> str:
    ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


def environments_run(wheel: Path, pythons: Iterable[str], torches: Iterable[str | None]) -> bool:
    """Try each Python with each torch, one after the other: a torch takes gigabytes."""
    right = True
    for python in pythons:
        for torch in torches:
            begin = time.perf_counter()
            print(f"Python {version_of(python)}, torch {torch or 'as installed'}:", end="", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                fault = environment(python, Path(folder), wheel, torch)
            print(f"{', ' if fault is None else ' failed, '}{time.perf_counter() - begin:.0f} s\n{fault or ''}", end="")
            right = right and fault is None
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help=f"the Pythons to try, of {', '.join(PYTHONS)}")
    parser.add_argument("--torch", action="append", choices=TORCHES, help="only this torch; may be given again")
    parser.add_argument("--smoke", action="store_true", help="one environment, with the torch of this Python")
    parser.add_argument("--installed", action="store_true", help="try what is installed in this Python, and no more")
    options = parser.parse_args()
    if options.installed:
        return installed()
    wheel = only("*.whl")
    right = contents_are_right(wheel)
    if options.smoke:
        return int(not (environments_run(wheel, [sys.executable], [None]) and right))
    pythons = options.pythons or [name for one in PYTHONS if (name := shutil.which(f"python{one}"))]
    right = environments_run(wheel, pythons, options.torch or TORCHES) and right
    tried = set(map(version_of, pythons))
    print("Pythons that were not at hand:", ", ".join(one for one in PYTHONS if one not in tried) or "none")
    return int(not right or not pythons)


if __name__ == "__main__":
    sys.exit(main())
