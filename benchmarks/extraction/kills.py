"""What kills do to `roialign extract`: whole commands, single workers, and actors of Ray, at random moments."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.extraction.kills import killed_over_and_over
from tests.extraction.scenes import backbone_file, collection

from .kept import Kept
from .processes import family, words_of

GROUP, WORKER, ACTOR = "the whole process group", "a worker alone", "an actor of Ray alone"
_ROOT = Path(__file__).parent.parent.parent
_VICTIMS = {WORKER: "multiprocessing.spawn", ACTOR: "ray::Actor"}  # what their command lines have
_PER_PART, _BOXES, _SIZES_HW = 5, 10, ((240, 320), (320, 240))
_PATIENCE_S = 60.0  # for the first worker to be there
Row = dict[str, Any]


def all_kills(images: int, counts: dict[str, int], kept: Kept, scratch: Path) -> Iterator[Row]:
    """So many kills of each kind; those of Ray where it is installed."""
    for kind, count in counts.items():
        if kind == ACTOR and importlib.util.find_spec("ray") is None:
            print(f"kills: {kind}: left out, ray is not installed", flush=True)
            continue
        asked = {"images": images, "kills": count}
        yield kept.result(f"kills/{kind}", asked, partial(_killed, kind, count, images, scratch / kind))


@dataclass
class Command:
    """`roialign extract` in a process group of its own; its command is the same wherever its folder is."""

    kind: str
    arguments: list[str]
    draw: random.Random
    out: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])
        with (self.out.parent / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "roialign", "extract", *self.arguments, "--out", self.out.name],
                cwd=self.out.parent,
                env={**os.environ, "PYTHONPATH": paths},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> bool:
        if self.kind == GROUP:
            alive = self.process.poll() is None
            if alive:
                os.killpg(self.process.pid, signal.SIGKILL)
            return alive
        begin = time.monotonic()
        while self.process.poll() is None and time.monotonic() - begin < _PATIENCE_S:
            victims = [pid for pid in family(self.process.pid) if _VICTIMS[self.kind] in words_of(pid)]
            if victims:
                with suppress(ProcessLookupError):
                    os.kill(self.draw.choice(victims), signal.SIGKILL)
                    return True
            time.sleep(0.01)
        return False

    def wait(self) -> None:
        self.process.wait()


def _killed(kind: str, count: int, images: int, folder: Path) -> Row:
    shutil.rmtree(folder, ignore_errors=True)
    boxes = collection(folder, images, _BOXES, _SIZES_HW)
    arguments = [str(folder / "photos"), "--boxes", str(boxes), "--backbone", backbone_file(folder)]
    arguments += ["--images-per-part", str(_PER_PART), "--batch-size", "2", "--workers", "2", "--quiet"]
    if kind == ACTOR:
        arguments += ["--engine", "ray"]
    draw, begin = random.Random(1), time.monotonic()
    met = killed_over_and_over(folder, lambda out: Command(kind, arguments, draw, out), count)
    print(f"  {met}", flush=True)
    return {
        "killed": kind,
        "kills": met.done,
        "images": images,
        "parts": -(-images // _PER_PART),
        "rows": images * _BOXES,
        **asdict(met),
        "seconds": time.monotonic() - begin,
    }
