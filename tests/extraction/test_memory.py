"""The memory of a part is bounded, however many boxes it has."""

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

from roialign.extraction import work
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.rows import RegionRows

from .kills import content
from .scenes import backbone_file, boxes_of, coco, collection, picture
from .test_resuming import ROOT

ROW = 8 * 4 + work._BYTES_BESIDES  # bytes of a row of the small backbone's mean
MEASURED = """
import resource
import sys
from pathlib import Path

from roialign.extraction import extract

folder, backbone = Path(sys.argv[1]), sys.argv[2]
options = dict(batch_size=2, workers=1, quiet=True, reduce="flatten", dtype="float32", output_size=8)
boxes, out = folder / "boxes.json", folder / "out"
regions = extract(folder / "photos", boxes=boxes, backbone=backbone, out=out, images_per_part=256, **options)
print(len(regions), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def many_boxes(folder, counts):
    """An image of one of two sizes for each count, with so many boxes."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    images, marked = [], {}
    for number, count in enumerate(counts):
        size_hw = (48, 64) if number % 2 else (64, 48)
        picture(number, size_hw).save(photos / f"{number:04d}.png")
        images.append({"id": number, "file_name": f"{number:04d}.png", "height": size_hw[0], "width": size_hw[1]})
        marked[number] = boxes_of(number, count, size_hw)
    return coco(folder / "boxes.json", images, marked)


@pytest.fixture
def most_held(monkeypatch):
    """The most rows that were made and not yet taken to be written."""
    held, most = [0], [0]
    embed, write = work.Embed.__call__, Parts.write

    def made(self, images):
        for one in embed(self, images):
            held[0] += len(one) if isinstance(one, RegionRows) else 1
            most[0] = max(most[0], held[0])
            yield one

    def written(self, number, rows):
        def counted():
            for one in rows:
                held[0] -= len(one) if isinstance(one, RegionRows) else 1
                yield one

        held[0] = 0  # the sample's, which nobody takes
        most[0] = 0
        write(self, number, counted())
        assert held[0] == 0

    monkeypatch.setattr(work.Embed, "__call__", made)
    monkeypatch.setattr(Parts, "write", written)
    return most


COUNTS = (1, 3, 2, 40, 7, 1, 5, 9, 1, 100, 2, 2, 8, 30, 4, 1)


@pytest.mark.parametrize("most", [12, 45])
def test_rows_that_wait_are_never_more_than_the_bound(tmp_path, extracted, monkeypatch, most_held, most):
    boxes = many_boxes(tmp_path, COUNTS)
    options = {"batch_size": 4, "command": "the same"}
    together = extracted(tmp_path / "photos", boxes, **options)
    assert most_held[0] > 45
    monkeypatch.setattr(work, "_MOST_HELD", most * ROW)
    monkeypatch.setattr(work, "_MOST_NUMBERS", 8 * 49 * 5)  # five boxes at a time
    apart = extracted(tmp_path / "photos", boxes, out=tmp_path / "apart", **options)
    assert most // 2 < most_held[0] <= most
    assert Counter(one.image_id for one in apart) == {f"{n:04d}.png": count for n, count in enumerate(COUNTS)}
    for one, other in zip(together, apart, strict=True):
        assert (one.image_id, one.box_id) == (other.image_id, other.box_id)
        torch.testing.assert_close(one.feature, other.feature, rtol=1e-5, atol=1e-5)
    extracted(tmp_path / "photos", boxes, out=tmp_path / "again", **options)
    assert content(tmp_path / "again") == content(tmp_path / "apart")


def test_images_of_one_size_never_wait_for_a_bound_that_is_not_reached(tmp_path, extracted, monkeypatch):
    boxes = collection(tmp_path, 16, sizes_hw=[(48, 64)])
    batches, embed = [], work.Embed.__call__
    monkeypatch.setattr(work.Embed, "__call__", lambda self, some: batches.append(len(some)) or embed(self, some))
    monkeypatch.setattr(work, "_MOST_HELD", 12 * ROW)
    extracted(tmp_path / "photos", boxes, batch_size=4)
    assert batches[-4:] == [4] * 4
    assert max(batches[:-4]) == 1  # of the sample


def test_a_fault_between_chunks_costs_the_boxes_that_are_left(tmp_path, extracted, monkeypatch):
    boxes = many_boxes(tmp_path, (7, 9))
    reduced, calls = work.Embed._reduced, []

    def fails(self, *chunk):
        calls.append(0)
        if len(calls) > 5:  # after those of the sample, 2 and 2, in the first image
            raise ValueError("no more")
        return reduced(self, *chunk)

    monkeypatch.setattr(work, "_MOST_NUMBERS", 8 * 49 * 5)
    monkeypatch.setattr(work.Embed, "_reduced", fails)
    regions = extracted(tmp_path / "photos", boxes)
    assert [(one.image_id, one.box_index) for one in regions] == [("0000.png", index) for index in range(5)]
    errors = [(error.image_id, error.box_id, error.reason) for error in regions.errors()]
    assert errors == [("0000.png", None, "no more"), ("0001.png", None, "no more")]


def measured(tmp_path, name, counts):
    """Rows, and the peak in kB, of a process that extracts them all as one part, of 2 kB each."""
    folder = tmp_path / name
    many_boxes(folder, counts)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", MEASURED, str(folder), backbone_file(folder)]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    return int(said[0]), int(said[1])


@pytest.mark.rare  # two minutes
def test_ten_times_as_many_boxes_in_a_part_take_the_same_memory(tmp_path):
    few, few_kb = measured(tmp_path, "few", [10_000] * 2)
    many, many_kb = measured(tmp_path, "many", [10_000] * 20)
    assert (few, many) == (20_000, 200_000)
    assert many_kb < 1.2 * few_kb  # by 74 % more when all rows of a part were held
