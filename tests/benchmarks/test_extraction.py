"""What `make bench-extraction` measures with: results that are kept, its collections, and its ratios."""

import os
import sys

import pytest
import torch
from benchmarks.extraction import memory, report, speed
from benchmarks.extraction.kept import Kept
from benchmarks.extraction.processes import watched, words_of
from benchmarks.extraction.sets import Boxed, voc_boxes
from PIL import Image

from roialign.extraction.boxes import open_boxes
from roialign.extraction.images import list_images

VOC = """<annotation><size><width>64</width><height>48</height></size>
<object><name>RBC</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""


def test_a_result_is_made_once_and_again_when_something_else_is_asked(tmp_path, capsys):
    kept, made = Kept(tmp_path), []

    def make():
        made.append(len(made))
        return {"seconds": made[-1]}

    asked = [{"images": 3}, {"images": 3}, {"images": 4}]
    assert [kept.result("speed/plain 0", one, make)["seconds"] for one in asked] == [0, 0, 1]


def test_the_plain_script_reads_the_boxes_that_extract_reads(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 48)).save(tmp_path / "photos" / f"{name}.jpg")
        (tmp_path / "annotations" / f"{name}.xml").write_text(VOC)
    boxes_xyxy, labels = voc_boxes(tmp_path / "annotations" / "a.xml")
    images = list_images(tmp_path / "photos")
    source = open_boxes(tmp_path / "annotations", images, tmp_path / "index.sqlite")
    assert boxes_xyxy.tolist() == source.of(images[0]).boxes_xyxy.tolist()
    assert labels == ["RBC"]
    some = Boxed("Cells", tmp_path / "photos", tmp_path / "annotations", (48, 64)).some(tmp_path / "some", 1)
    assert [path.name for path in some.paths()] == ["a.jpg"]


def test_a_collection_for_the_memory_is_gone_on_with_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "load_photographs", lambda: [Image.new("RGB", (100, 90), "red")])
    monkeypatch.setattr(memory, "_PER_FOLDER", 2)
    memory.collection(tmp_path, 3)
    monkeypatch.setattr(memory, "load_photographs", list)  # what is there is not cut again
    (tmp_path / "boxes.json").unlink()
    memory.collection(tmp_path, 3)
    images = list_images(tmp_path / "photos")
    source = open_boxes(tmp_path / "boxes.json", images, tmp_path / "index.sqlite")
    assert len(images) == 3
    for image in images:
        boxes_xyxy = torch.from_numpy(source.of(image).boxes_xyxy)
        assert boxes_xyxy.shape == (memory.BOXES, 4)
        assert bool(((boxes_xyxy >= -0.01) & (boxes_xyxy <= memory.SIDE_PX + 0.01)).all())


def test_the_memory_of_a_command_is_that_of_all_its_processes(tmp_path):
    hold = "import time; held = b'1' * 100_000_000; time.sleep(2)"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    peak = watched([sys.executable, "-c", both], tmp_path)
    assert peak.processes == 2
    assert 100 < peak.pss_mb < 200
    assert peak.rss_mb >= peak.pss_mb
    assert "python" in words_of(os.getpid())
    assert words_of(2**22 + 1) == ""  # there is none
    with pytest.raises(SystemExit, match="its status is 3"):
        watched([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def timed(contender, number, rate, **others):
    of = {"set": "Cells", "backbone": "net", "setting_alone": "1 x 2 threads, batch 4", "largest_difference": 1e-6}
    return {**of, "contender": contender, "round": number, "images_per_s": rate, "begin_s": 3.0, **others}


def test_ratios_are_of_the_same_round_and_the_median_of_them():
    names = (speed.ALONE, speed.IN_PARTS, speed.OF_GRID, speed.CROPS, speed.SMALL_CROPS)
    rows = [timed(name, number, 10.0) for name in names for number in range(3)]
    rows += [timed(speed.EXTRACT, number, rate) for number, rate in enumerate((8.0, 20.0, 9.0))]
    rows += [timed(speed.PLAIN, number, rate) for number, rate in enumerate((4.0, 5.0, 3.0))]
    shown = report.tables({"speed": rows}, {})
    assert "| Cells | net | extract() | 3.00 (2.00 to 4.00) | 90.00 (80.00 to 200.00) |" in shown
    assert "| extract() | 9.00 (8.00 to 20.00) | 3 |" in shown


def test_every_stage_has_its_table():
    sweep = {"set": "Cells", "backbone": "net", "round": 0}
    kills = {
        "killed": "all",
        "kills": 9,
        "before": 2,
        "within": 3,
        "after": 4,
        "half_written": 1,
        "stores": 2,
        "resumes": 7,
    }
    measured = {"peak_pss_mb": 900.4, "peak_rss_mb": 1500.0, "processes": 4, "seconds": 36.0, "images_per_s": 28.0}
    searched = {"stride": "16", "class": "RBC", "boxes": 5, "queries": 4, "precision": 0.98765, "random": 0.85}
    jpeg = {"format": "JPEG", "ms_per_megapixel": 7.77, "largest_difference": 3}
    decoders = [{**jpeg, "decoder": "fast", "version": "1.2", "photographs": 23}]
    decoders += [{"format": "PNG", "decoder": "fast", "version": "1.2", "photographs": 23}]  # it does not read it
    stages = {
        "decoders": decoders,
        "sweep": [
            {**sweep, "workers": speed.CORES, "threads": 1, "decoders": 1, "images_per_s": 10.0},
            {**sweep, "workers": 1, "threads": 7, "decoders": 1, "images_per_s": 11.0},
        ],
        "memory": [{"images": 1000, "boxes": 20_000, "store_mb": 2.0, "index_mb": 3.0, "channels": 16, **measured}],
        "kills": [{**kills, "different": 0, "rows_lost": 0, "rows_twice": 0, "rows": 6000, "parts": 120}],
        "hostile": [{"file": "a.png", "what": "text", "rows": 0, "errors": ["RA307: a|b", "c"], "status": 3}],
        "search": [searched],
    }
    shown = report.tables(stages, {"16": 0.5})
    assert "| fast 1.2 | 7.8, 3 |  |  |  |" in shown
    assert "| 1 | 7 | 1 | 11.00 (11.00 to 11.00) | +10 % |" in shown
    assert "| 1,000 | 20,000 | 900 | 1500 | 0.6 | 28 | 2 | 3 |" in shown
    assert "50 hours, 10 GB" in shown
    assert "| all | 9 | 2 | 3 | 4 | 1 | 2 | 7 | 0 | 0 | 0 |" in shown
    assert "| `a.png` | text | 0 | RA307: a\\|b<br>c |" in shown
    assert "| 16 | RBC | 5 | 4 | 98.8 | 85.0 |" in shown
    assert "stride 16, among 300 of each class: 50.0 %" in shown
