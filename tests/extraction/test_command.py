"""The commands extract and search: what they print in 80 columns, and their exit statuses."""

import json
import os
import re
import sys
from contextlib import suppress

import pytest
from PIL import Image
from typer.testing import CliRunner

from roialign.cli.app import app
from roialign.extraction import open as open_store
from roialign.extraction.progress import Tally, shown
from roialign.extraction.work import Step

from .scenes import backbone_file, collection


def ran(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert all(len(line) <= 80 for line in result.output.splitlines() if os.sep not in line), result.output
    return result


@pytest.fixture
def command(tmp_path):
    boxes = collection(tmp_path, 4)
    options = ["--backbone", backbone_file(tmp_path), "--out", tmp_path / "out", "--workers", 1]
    return ["extract", tmp_path / "photos", "--boxes", boxes, *options]


def test_all_rows_are_there(tmp_path, command):
    result = ran(*command, "--dtype", "float32", "--output-size", "3x5", "--reduce", "none", "--letterbox", "64")
    assert result.exit_code == 0, result.output
    assert re.search(r"^4 images have annotations \(4 by path\)\.\n", result.output)
    assert "12 regions of 4 images in" in result.output
    assert "8 x 3 x 5 float32 each, of small.py:pyramid" in result.output
    regions = open_store(tmp_path / "out")
    assert regions.manifest.transform["fit"] == {"kind": "letterbox", "size": 64}
    assert regions.manifest.command


def test_some_rows_are_not(tmp_path, command):
    (tmp_path / "photos" / "0001.png").write_bytes(b"no image")
    result = ran(*command)
    assert result.exit_code == 3
    assert "9 regions of 4 images in" in result.output
    assert "1 errors (RA307 1): roialign.extraction.open(...).errors() lists them" in " ".join(result.output.split())
    assert ran(*command, "--quiet").exit_code == 3
    assert ran(*command, "--quiet").output == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_pillow_warns_of_does_not_come_between(tmp_path, command, capfd, workers):
    photo = tmp_path / "photos" / "0001.png"
    Image.open(photo).save(photo, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xffnonsense")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(photo).getexif()
    result = ran(*command[:-1], workers)
    assert result.exit_code == 0
    assert "EXIF" not in result.output + capfd.readouterr().err


def test_the_doctor_stops_it(tmp_path, command):
    boxes = tmp_path / "boxes.csv"
    rows = [f"{n:04d}.png,{0.1 * p},0.1,{0.1 * p + 0.4},0.7" for n in range(4) for p in range(5)]
    boxes.write_text("\n".join(["image,x1,y1,x2,y2", *rows]))
    command[3] = boxes
    result = ran(*command)
    assert result.exit_code == 1
    assert "RA103 error: normalized boxes" in result.output
    assert "--force" in result.output
    result = ran(*command, "--force")
    assert result.exit_code == 0
    assert "20 regions of 4 images in" in result.output


def test_within_outlines(tmp_path, command):
    result = ran(*command, "--masked")
    assert result.exit_code == 1
    assert "RA706: expected boxes with outlines" in " ".join(result.output.split())
    page = json.loads((tmp_path / "boxes.json").read_text())
    for one in page["annotations"]:
        x, y, width, height = one["bbox"]
        one["segmentation"] = [[x, y, x + width, y, x, y + height]]
    (tmp_path / "outlined.json").write_text(json.dumps(page))
    command[3], command[7] = tmp_path / "outlined.json", tmp_path / "within"
    assert ran(*command, "--masked").exit_code == 0
    regions = open_store(tmp_path / "within")
    assert regions.manifest.options["masked"] is True
    assert all(region.columns["mask_share"] == pytest.approx(0.5, abs=0.03) for region in regions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--whole-image"], "expected one of --boxes, --grid and --whole-image; got 2 of them"),
        (["--resize", "big"], "expected --resize HEIGHTxWIDTH or one number, such as 480x640; got 'big'"),
        (["--backbone", "timm/resnet5O"], "resnet5O"),
        (["--backbone", "small.py:none"], "there is no file small.py"),
        (["--boxes", "nowhere.json"], "RA701"),
        (["--form", "pascal"], "RA506"),
        (["--maps", "c9"], "RA401"),
    ],
)
def test_arguments_that_cannot_be_used(command, change, words):
    result = ran(*command, *change)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())


def test_another_command_in_the_same_folder(command):
    assert ran(*command).exit_code == 0
    result = ran(*command, "--output-size", "3")
    assert result.exit_code == 2
    assert "RA711" in result.output
    assert "options.output_size is [7, 7] there, [3, 3] here" in " ".join(result.output.split())


def test_search(tmp_path, command):
    ran(*command)
    result = ran("search", tmp_path / "out", "--image", "0001.png", "--box", "1002", "-k", "2")
    assert result.exit_code == 0
    head, *rows = result.output.splitlines()
    assert head == "similarity  image  box  x1 y1 x2 y2"
    assert len(rows) == 2
    assert re.fullmatch(r" +\d\.\d{4}  000[023]\.png  \d+  [\d.]+ [\d.]+ [\d.]+ [\d.]+", rows[0])
    result = ran("search", tmp_path / "out", "--image", "0001.png", "--box", "7")
    assert result.exit_code == 2
    assert "boxes of it are 1000, 1001, 1002" in " ".join(result.output.split())


def test_progress_on_a_terminal_and_elsewhere(monkeypatch, capsys):
    pid, descriptor = os.openpty()
    with os.fdopen(descriptor, "w") as terminal:
        with shown(Tally(100, 0), terminal) as note:
            note(Step(50, 1000, 2))
        os.set_blocking(pid, False)
        drawn = b""
        with suppress(BlockingIOError):
            while True:
                drawn += os.read(pid, 10_000)
        assert b"50/100 images" in drawn
    os.close(pid)
    seconds = iter(range(0, 1000, 6))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with shown(Tally(1_000_000, 400, clock=lambda: 0.0), sys.stderr) as note:
        for _ in range(4):
            note(Step(100_000, 123_456, 99_999))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("200400/1000000 images")


def test_lines_fit_80_columns():
    seconds = iter([0.0, 86_400.0])
    tally = Tally(100_000_000, 0, lambda: next(seconds))
    tally.add(Step(9_999_999, 199_999_999, 99_999))
    assert len(tally.line()) <= 80


def test_without_ray_it_says_what_installs_it(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = ran(*command, "--engine", "ray")
    assert result.exit_code == 2
    assert "this needs ray, which is not installed; type: pip install 'ray[data]'" in " ".join(result.output.split())


def test_without_pyarrow_it_says_so_before_it_reads_anything(tmp_path, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = ran(*command)
    assert result.exit_code == 2
    assert result.output == "roialign extract: this needs pyarrow, which is not installed; type: pip install\npyarrow\n"
    assert not (tmp_path / "out").exists()


def test_whole_images_have_no_annotations(command):
    result = ran(*command[:2], "--whole-image", *command[4:])
    assert result.exit_code == 0
    assert result.output.startswith("4 regions of 4 images in")


def test_a_page_at_the_end(tmp_path, command):
    assert ran(*command, "--report", tmp_path / "page.html").exit_code == 0
    assert "<h2>Neighbours</h2>" in (tmp_path / "page.html").read_text(encoding="utf-8")
