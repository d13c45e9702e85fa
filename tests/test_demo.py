"""The demo, where `make demo` has fetched its photograph: zeros before, features after, and the pictures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHEELS = sorted((ROOT / "demo" / "data").glob("deepforest-*.whl"))


@pytest.mark.skipif(not WHEELS or importlib.util.find_spec("timm") is None, reason="needs what `make demo` sets up")
def test_the_demo_finds_and_mends_its_zeros(tmp_path: Path) -> None:
    command = [sys.executable, "examples/demo/run.py", "--wheel", str(WHEELS[0]), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "all zero: 60 of 61 trees" in done.stdout
    assert "RA101 error" in done.stdout
    assert "From the grid of the 25 x 25 map the stride is 16." in " ".join(done.stdout.split())
    assert "all zero: 0 of 61 trees" in done.stdout
    assert "spatial_scale=0.0625" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "trees.png").stat().st_size > 10_000
    assert max(map(len, done.stdout.splitlines())) <= 80
