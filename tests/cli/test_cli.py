"""The command, as a person runs it: in a child process, in a terminal of 80 columns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roialign.ops import backends, native
from roialign.version import __version__

ROOT = Path(__file__).parents[2]
ZEROS = ROOT / "examples" / "zeros"


def roialign(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "roialign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False, **options)  # type: ignore[call-overload, no-any-return]


def script(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


def test_the_mistake_is_found_and_its_fix_proven() -> None:
    done = roialign("doctor", ZEROS / "1_pixels_on_a_small_map.py", cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "largest value of each region: [0.0, 0.0]"
    for words in ("RA101", "examples/zeros/1_pixels_on_a_small_map.py:13", "spatial_scale=0.0625", "0.00 -> 1.00"):
        assert words in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


@pytest.mark.parametrize("name", ["2_spatial_scale.py", "3_boxes_in_cells.py"])
def test_the_right_ways_have_nothing_wrong(name: str) -> None:
    done = roialign("doctor", ZEROS / name, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stderr
    assert "0.9583" in done.stdout


def test_both_right_ways_are_equal() -> None:
    done = subprocess.run([sys.executable, ZEROS / "3_boxes_in_cells.py"], capture_output=True, text=True, check=True)
    assert "equal to spatial_scale=1/16: True" in done.stdout


def test_the_report_is_written(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    roialign("doctor", "--report", page, ZEROS / "1_pixels_on_a_small_map.py")
    assert "RA101" in page.read_text()


def test_the_script_sees_what_python_would_give_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    path = script(
        tmp_path,
        "import sys, beside\nprint(__name__, sys.argv[1:], beside.NAME, __file__ == sys.argv[0])\nsys.exit(7)\n",
    )
    done = roialign("doctor", path, "--report", "x", "-v")
    assert (done.returncode, done.stdout) == (7, "__main__ ['--report', 'x', '-v'] beside True\n")


def test_a_script_that_raises_still_gives_the_report(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import torch\nfrom torchvision.ops import roi_align\n"
        "roi_align(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)\n"
        "raise KeyError('later')\n",
    )
    done = roialign("doctor", path)
    assert done.returncode == 1
    assert "KeyError: 'later'" in done.stderr
    assert "runpy" not in done.stderr
    assert "RA101" in done.stderr


def test_the_call_that_raised_is_explained(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import torch\nfrom torchvision.ops import roi_align\n"
        "roi_align(torch.rand(1, 3, 64, 64), torch.tensor([[300.0, 300.0, 400.0, 400.0]]), 7)\n",
    )
    done = roialign("doctor", path.name, cwd=tmp_path)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert "RA207" in done.stderr
    assert "program.py:3" in done.stderr


def test_a_call_that_was_seen_and_then_raised_counts_once(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import torch, roialign\n"
        "roialign.roi_align(torch.rand(1, 3, 8, 8), [torch.tensor([[float('nan'), 0.0, 9.0, 9.0]])], 7)\n",
    )
    done = roialign("doctor", path)
    assert done.returncode == 1
    assert "1 RoI call examined: 1 error." in done.stderr


def test_interrupting_leaves_a_report(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import time, torch\nfrom torchvision.ops import roi_align\n"
        "roi_align(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n",
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "roialign", "doctor", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in errors
    assert "RA101" in errors


def test_a_missing_script_and_an_unknown_code() -> None:
    done = roialign("doctor", "nowhere.py")
    assert (done.returncode, done.stderr.strip()) == (2, "roialign doctor: there is no file nowhere.py")
    done = roialign("explain", "RA999")
    assert done.returncode == 2
    assert "there is no code 'RA999'" in done.stderr


def test_explain() -> None:
    done = roialign("explain", "ra101")
    assert done.returncode == 0
    assert "boxes in image pixels, spatial_scale left at 1" in done.stdout
    assert "spatial_scale=1 / 16" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    every = roialign("explain").stdout
    assert all(code in every for code in ("RA101", "RA209", "RA302", "RA506"))


def test_env() -> None:
    done = roialign("env")
    assert done.returncode == 0
    assert "torch " in done.stdout
    assert "instruction set" in done.stdout
    if native.CPU_LIBRARY.exists():
        assert f"library           {native.CPU_LIBRARY}\n" in done.stdout
    table = done.stdout.partition("\noperator ")[2].splitlines()[1:]
    assert [line.split()[0] for line in table] == backends.names()
    assert {"roi_align", "multi_scale_roi_align_backward", "roi_align_rotated", "prroi_pool"} <= set(backends.names())


def test_version() -> None:
    assert roialign("--version").stdout == f"roialign {__version__}\n"


@pytest.mark.parametrize(("words", "completed"), [("roialign do", "doctor"), ("roialign doctor --sa", "--sarif")])
def test_completion_in_bash(words: str, completed: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_ROIALIGN_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "import sys; sys.argv = ['roialign']; from roialign.cli.app import main; main()"]
    child = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked)
    assert child.stdout.split() == [completed]
