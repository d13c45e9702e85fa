"""A program that, for each line with the path of a folder, forks a child that extracts to it, to be killed.

What it needs is imported before. It says the child's pid, and "done" when the child has ended.

Argument: the folder of the collection.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import pyarrow.parquet  # noqa: F401  a child that is killed while it imports has written nothing

from roialign.extraction import extract

from .scenes import backbone_file

IMAGES, PER_PART, BOXES = 60, 3, 4


def run(folder: Path, out: Path) -> None:
    extract(
        folder / "photos",
        boxes=folder / "boxes.json",
        backbone=backbone_file(folder),
        out=out,
        images_per_part=PER_PART,
        batch_size=2,
        workers=1,
        quiet=True,
        command="the same",
    )


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(child, flush=True)
            os.waitpid(child, 0)
            print("done", flush=True)
            continue
        try:
            run(Path(sys.argv[1]), Path(line.rstrip("\n")))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
