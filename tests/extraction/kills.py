"""Runs that are killed at random moments and gone on with, and what has to come of it.

A run may be anything that extracts to a folder. `benchmarks.extraction.kills` kills whole commands; the tests kill
children of a program that has imported everything, which takes a hundredth of the time.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roialign.extraction import open as open_store


class Run(Protocol):
    """One that was begun."""

    def kill(self) -> bool:
        """Kill it; False, if it had ended before."""

    def wait(self) -> None:
        """Until it has ended, by itself or not."""


Begin = Callable[[Path], Run]
"""Begins a run that extracts to this folder."""


@dataclass
class Kills:
    """What kills met, and what came of it."""

    before: int = 0
    """Kills of runs that had written no part yet."""
    within: int = 0
    """Kills of runs that had written some of the missing parts."""
    after: int = 0
    """Kills when all parts were there, and the run had not ended."""
    half_written: int = 0
    """Kills that left a file half written."""
    too_late: int = 0
    """Runs that ended before they were to be killed."""
    stores: int = 0
    resumes: int = 0
    """Runs that went on with what an earlier one had left."""
    different: int = 0
    """Files that are not, byte for byte, as without kills, in all stores together; lost and further ones, too."""
    rows_lost: int = 0
    rows_twice: int = 0

    @property
    def done(self) -> int:
        return self.before + self.within + self.after

    @property
    def harmless(self) -> bool:
        return not (self.different or self.rows_lost or self.rows_twice)


def content(out: Path) -> dict[str, bytes]:
    """All of a store's files that others read."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "index.sqlite")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def killed_over_and_over(folder: Path, begin: Begin, kills: int, seed: int = 0) -> Kills:
    """Extract once without kills, then kill runs until so many were killed, and compare each finished store.

    Each run is killed at a moment drawn evenly from the time that a whole one takes, unless it ends before. The next
    one goes on with the same store, and when all its parts are there another store is begun.

    Args:
        folder: where the stores go, each to a folder `regions` of its own folder.
        begin: the same run, but for where it writes.
    """
    start = time.monotonic()
    begin(folder / "whole" / "regions").wait()
    takes_s = time.monotonic() - start
    whole = open_store(folder / "whole" / "regions")
    expected, rows = content(whole.folder), _rows(whole.folder)
    moments, met = random.Random(seed), Kills()
    while met.done < kills:
        out = folder / f"killed {met.stores}" / "regions"
        while met.done < kills and len(_parts(out)) < whole.manifest.part_count:
            after_s, is_new = moments.uniform(0, takes_s), not _parts(out)
            if not _kill_once(begin, out, after_s, whole.manifest.part_count, met) and is_new:
                takes_s = after_s  # the machine has become faster
        met.resumes += 1
        begin(out).wait()
        found, found_rows = content(out), _rows(out)
        met.stores += 1
        met.different += sum(found.get(name) != expected.get(name) for name in {*found, *expected})
        met.rows_lost += (rows - found_rows).total()
        met.rows_twice += (found_rows - rows).total()
    return met


def _kill_once(begin: Begin, out: Path, after_s: float, part_count: int, met: Kills) -> bool:
    there, left = _parts(out), _half_written(out)
    met.resumes += bool(there)
    run = begin(out)
    time.sleep(after_s)
    killed, now = run.kill(), _parts(out)
    run.wait()  # where one process was killed, the others may go on
    if not killed:
        met.too_late += 1
    elif now == there:
        met.before += 1
    elif len(now) < part_count:
        met.within += 1
    else:
        met.after += 1
    met.half_written += bool(killed and _half_written(out) - left)
    return killed


def _parts(out: Path) -> set[str]:
    return {path.name for path in (out / "parts").glob("[0-9]*.parquet")}


def _half_written(out: Path) -> set[str]:
    return {path.name for path in out.rglob(".*.unfinished")}


def _rows(out: Path) -> Counter[tuple[str, str]]:
    return Counter((region.image_id, region.box_id) for region in open_store(out))
