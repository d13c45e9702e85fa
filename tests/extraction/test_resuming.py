"""Runs that are killed, stopped, refused and continued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from roialign.errors import StoreError, WorkerError
from roialign.extraction import local
from roialign.extraction import open as open_store
from roialign.extraction.recipe import Job
from roialign.extraction.store.lock import locked
from roialign.extraction.work import Embed

from .killed import BOXES, IMAGES, PER_PART, run
from .scenes import collection

DEADLY = """
import os

from torch import nn


class Deadly(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, images):
        if os.getpid() != {pid}:
            os._exit(9)
        return self.net(images)
"""
ROOT = Path(__file__).parent.parent.parent


def content(out: Path) -> dict[str, bytes]:
    """All of a store's files that others read."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "index.sqlite")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@contextmanager
def program(folder: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.extraction.killed", str(folder), str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def begin(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def killed_over_and_over(tmp_path: Path, kills: int) -> None:
    """Kill runs until they were killed so often, each at a random moment, and compare with a run that was not."""
    collection(tmp_path, IMAGES, BOXES)
    run(tmp_path, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    moments, done, round_ = random.Random(0), 0, 0
    with program(tmp_path, tmp_path / "warm") as process:
        begin(process)
        start = time.monotonic()
        assert process.stdout is not None
        process.stdout.readline()
        takes_s = time.monotonic() - start
    while done < kills:
        out = tmp_path / f"killed {round_}"
        with program(tmp_path, out) as process:
            assert process.stdout is not None
            for _ in range(max(5, kills // 4)):
                child = begin(process)
                time.sleep(moments.uniform(0, takes_s))
                with suppress(ProcessLookupError):  # it was done before
                    os.kill(child, signal.SIGKILL)
                    done += 1
                assert process.stdout.readline() == "done\n"
                if out.exists() and len(list((out / "parts").glob("[0-9]*"))) == IMAGES // PER_PART:
                    break
            begin(process)
            assert process.stdout.readline() == "done\n"
        assert content(out) == expected
        rows = Counter((region.image_id, region.box_id) for region in open_store(out))
        assert len(rows) == IMAGES * BOXES
        assert set(rows.values()) == {1}
        round_ += 1


def test_killed_runs_are_gone_on_with(tmp_path):
    killed_over_and_over(tmp_path, kills=5)


@pytest.mark.rare
def test_a_hundred_kills(tmp_path):
    killed_over_and_over(tmp_path, kills=100)


def test_missing_parts_are_made_again_and_no_others(tmp_path, extracted, monkeypatch):
    boxes = collection(tmp_path, 12)
    options = {"images_per_part": 3, "command": "the same"}
    extracted(tmp_path / "photos", boxes, **options)
    expected, made = content(tmp_path / "regions"), []
    (tmp_path / "regions" / "parts" / "00000002.parquet").unlink()
    embed = Embed.__call__
    monkeypatch.setattr(Embed, "__call__", lambda self, images: made.extend(images) or embed(self, images))
    extracted(tmp_path / "photos", boxes, **options)
    assert {one.marked.image_id for one in made} == {"0006.png", "0007.png", "0008.png"}
    assert content(tmp_path / "regions") == expected
    made.clear()
    extracted(tmp_path / "photos", boxes, **options)
    assert not made


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"reduce": "flatten"}, 'options.reduce is "mean" there, "flatten" here'),
        ({"output_size": 3}, "options.output_size"),
        ({"dtype": "float16"}, "rows.feature_dtype"),
        ({"resize": 32}, "transform.fit"),
        ({"images_per_part": 2}, "images.per_part is 3 there, 2 here"),
        ({"batch_size": 1}, "options.batch_size"),
        ({"boxes": "whole"}, "boxes.sha256"),
        ({"photos": "fewer"}, "images.count is 6 there, 5 here"),
    ],
)
def test_another_extraction_is_refused(tmp_path, extracted, other, words):
    boxes = collection(tmp_path, 6)
    extracted(tmp_path / "photos", boxes, images_per_part=3)
    photos = tmp_path / "photos"
    if other.pop("photos", None):
        (photos / "0005.png").unlink()
    with pytest.raises(StoreError, match="RA711") as caught:
        extracted(photos, other.pop("boxes", boxes), **{"images_per_part": 3, **other})
    assert words in str(caught.value)


def test_other_weights_are_refused(tmp_path, extracted):
    boxes = collection(tmp_path, 3)
    extracted(tmp_path / "photos", boxes)
    path = tmp_path / "small.py"
    other = tmp_path / "changed" / "small.py"
    other.parent.mkdir()
    other.write_text(path.read_text().replace("manual_seed(3)", "manual_seed(4)"))
    with pytest.raises(StoreError, match=r"RA711: .*backbone\.weights_sha256"):
        extracted(tmp_path / "photos", boxes, backbone=f"{other}:pyramid")


def test_a_second_run_is_refused_while_the_first_one_lasts(tmp_path, extracted):
    boxes = collection(tmp_path, 3)
    (tmp_path / "regions").mkdir()
    with locked(tmp_path / "regions", "the first"), pytest.raises(StoreError, match=r"RA712: .*the first"):
        extracted(tmp_path / "photos", boxes)
    assert len(extracted(tmp_path / "photos", boxes)) == 9


def test_several_processes_make_the_same_rows(tmp_path, extracted):
    boxes = collection(tmp_path, 12)
    options = {"images_per_part": 2, "command": "the same"}
    extracted(tmp_path / "photos", boxes, **options, out=tmp_path / "one")
    extracted(tmp_path / "photos", boxes, **options, out=tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_process_that_dies_is_said_to_have(tmp_path, extracted):
    boxes = collection(tmp_path, 4)
    (tmp_path / "deadly.py").write_text(DEADLY.format(pid=os.getpid()))
    options = {"backbone": f"{tmp_path / 'deadly.py'}:Deadly", "images_per_part": 1}
    with pytest.raises(WorkerError, match="RA707: expected the process that does part"):
        extracted(tmp_path / "photos", boxes, **options, workers=2)
    assert len(extracted(tmp_path / "photos", boxes, **options)) == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_that_it_goes_on(tmp_path, extracted, capfd, monkeypatch, number):
    boxes = collection(tmp_path, 6)
    make = local._here

    def stop_after_one(job: Job, todo: Any, *others: Any) -> None:
        def parts() -> Iterator[Any]:
            yield next(todo)
            os.kill(os.getpid(), number)
            time.sleep(5)
            yield from todo

        make(job, parts(), *others)

    monkeypatch.setattr(local, "_here", stop_after_one)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path / "photos", boxes, images_per_part=2, quiet=False)
    assert "Stopped with 1 of 3 parts written. The same command goes on from there." in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    regions = extracted(tmp_path / "photos", boxes, images_per_part=2, quiet=False)
    assert len(regions) == 18
    assert "Going on: 2 of 6 images are there." in capfd.readouterr().err
