"""Runs that are killed, stopped, refused and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roialign.errors import StoreError, WorkerError
from roialign.extraction import local
from roialign.extraction.extract import _images_per_part
from roialign.extraction.recipe import Job
from roialign.extraction.store.lock import locked
from roialign.extraction.work import Embed

from .killed import BOXES, IMAGES
from .kills import Kills, content, killed_over_and_over
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


class Child:
    """A child of the program `killed`."""

    def __init__(self, program: subprocess.Popen[str], out: Path) -> None:
        assert program.stdin is not None
        assert program.stdout is not None
        self.says = program.stdout
        print(out, file=program.stdin, flush=True)
        self.pid = int(self.says.readline())

    def kill(self) -> bool:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> None:
        assert self.says.readline() == "done\n"


def killed(tmp_path: Path, kills: int) -> Kills:
    collection(tmp_path, IMAGES, BOXES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.extraction.killed", str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes) as process:
        try:
            Child(process, tmp_path / "warm").wait()
            return killed_over_and_over(tmp_path, lambda out: Child(process, out), kills)
        finally:
            process.kill()


def test_killed_runs_are_gone_on_with(tmp_path):
    met = killed(tmp_path, kills=5)
    assert met.done == 5
    assert met.harmless, met


@pytest.mark.rare
def test_a_hundred_kills(tmp_path):
    met = killed(tmp_path, kills=100)
    assert met.harmless, met
    assert met.within > 3  # starting takes most of the time: on a busy machine 7 of 100 fall there
    assert met.half_written


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


def test_processes_keep_memory_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    before = dict(os.environ)
    with local._in_environment(local.KEEPS_MEMORY):
        assert dict(os.environ) == {**local.KEEPS_MEMORY, **before}
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("count", "reduce", "images"), [(4, "mean", 16), (728, "mean", 23), (100_000, "mean", 256), (100_000, "none", 32)]
)
def test_small_collections_have_parts_for_several_processes(count, reduce, images):
    assert _images_per_part(count, reduce) == images


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
