"""What `roialign extract` makes of a folder of hostile files: which rows are there, and what it says of the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.extraction.hostile import BAD, GOOD, hostile
from tests.extraction.scenes import backbone_file

from roialign.extraction import open as open_store

from .kept import Kept

Row = dict[str, Any]


def outcomes(crowd: int, kept: Kept, scratch: Path) -> list[Row]:
    """Of each file, with so many boxes in the crowded one; the exit status of the command is in each row."""
    found: list[Row] = kept.result("hostile", {"crowd": crowd}, partial(_extracted, crowd, scratch / "hostile"))
    return found


def _extracted(crowd: int, folder: Path) -> list[Row]:
    shutil.rmtree(folder, ignore_errors=True)
    photos, boxes = hostile(folder, crowd)
    command = [sys.executable, "-m", "roialign", "extract", str(photos), "--boxes", str(boxes), "--quiet"]
    status = subprocess.run(
        [*command, "--backbone", backbone_file(folder), "--out", str(folder / "regions")], check=False
    ).returncode
    regions = open_store(folder / "regions")
    rows, errors = Counter(region.image_id for region in regions), list(regions.errors())
    found = []
    for name, what in {**GOOD, **BAD}.items():
        own = [error for error in errors if error.image_id == name]
        said = [f"{error.code}: {error.reason}".replace(str(folder), "...") for error in own]
        found.append({"file": name, "what": what, "rows": rows[name], "errors": said, "status": status})
    others = {*rows, *(error.image_id for error in errors)} - {*GOOD, *BAD}
    if others:
        raise SystemExit(f"expected rows and errors of the files of the folder alone; got some of {', '.join(others)}")
    return found
