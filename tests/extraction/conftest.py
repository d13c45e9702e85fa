"""What tests of extractions share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roialign.extraction import Regions, extract

from .scenes import backbone_file

pytest.importorskip("pyarrow")


@pytest.fixture
def extracted(tmp_path: Path) -> Callable[..., Regions]:
    """Extract with the small backbone, in this process, to tmp_path/regions if no other folder is named."""

    def run(images: Path, boxes: Any, **options: Any) -> Regions:
        defaults = {"backbone": backbone_file(tmp_path), "out": tmp_path / "regions", "workers": 1, "quiet": True}
        return extract(images, boxes=boxes, **{**defaults, "dtype": "float32", **options})

    return run
