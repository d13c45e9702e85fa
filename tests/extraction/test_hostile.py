"""A folder of hostile files: every good row is there, every bad one is explained."""

import json
import os
from collections import Counter

import pytest
import torch
from PIL import Image

from roialign import set_policy
from roialign.errors import SampleError
from roialign.extraction import work

from .hostile import GOOD, hostile
from .scenes import collection


def test_what_can_be_extracted_is_and_the_rest_is_explained(tmp_path, extracted):
    photos, boxes = hostile(tmp_path)
    regions = extracted(photos, boxes)
    counts = Counter(region.image_id for region in regions)
    assert counts == {**dict.fromkeys(GOOD, 3), "good.png": 4, "crowded.png": 500}
    errors = {(error.image_id, error.box_id): (error.code, error.reason) for error in regions.errors()}
    expected = {
        ("good.png", "3"): ("RA205", "expected finite coordinates; got x1 = nan, y1 = 0, x2 = nan, y2 = 5."),
        ("good.png", "4"): ("RA204", "expected x1 < x2 and y1 < y2; got x1 = 9, y1 = 9, x2 = 5, y2 = 14."),
        ("good.png", "5"): ("RA209", "expected a box that has a part in the image of 48 x 64 pixels; got x1 = 70"),
        ("good.png", "6"): ("RA204", "expected x1 < x2 and y1 < y2; got x1 = 3, y1 = 3, x2 = 3, y2 = 7."),
        ("truncated.jpg", None): ("RA307", "truncated"),
        ("empty.jpg", None): ("RA307", "it is empty"),
        ("text.png", None): ("RA307", "cannot identify image file"),
        ("gone.png", None): ("FileNotFoundError", "No such file or directory"),
        ("dot.png", None): (
            "RuntimeError",
            "Kernel size can't be greater than actual input size",
        ),  # the backbone takes no image below 4 x 4
        ("bomb.png", None): ("RA307", "exceeds limit of"),
        ("missing.png", None): ("RA702", "the collection does not have it"),
        ("none.png", None): ("NoBoxes", "nothing is marked in it"),
        ("unknown.png", None): ("NoBoxes", "the annotations do not have this image"),
    }
    assert set(errors) == set(expected)
    for key, (code, words) in expected.items():
        assert errors[key][0] == code
        assert words in errors[key][1], errors[key]
    assert not any("0x" in reason for _, reason in errors.values())  # an address, which differs in each run


def test_an_image_that_the_backbone_does_not_take_costs_itself(tmp_path, extracted):
    boxes = collection(tmp_path, 4)
    Image.new("RGB", (2, 2)).save(tmp_path / "photos" / "0002.png")  # of which a map of stride 4 has no cell
    record = json.loads(boxes.read_text())
    record["images"][2] |= {"height": 2, "width": 2}
    for annotation in record["annotations"]:
        annotation["bbox"] = [0, 0, 2, 2] if annotation["image_id"] == 2 else annotation["bbox"]
    boxes.write_text(json.dumps(record))
    regions = extracted(tmp_path / "photos", boxes)
    assert Counter(region.image_id for region in regions) == dict.fromkeys(("0000.png", "0001.png", "0003.png"), 3)
    (error,) = regions.errors()
    assert error.image_id == "0002.png"
    assert error.box_id is None


def test_features_that_float16_cannot_hold_are_errors(tmp_path, extracted):
    boxes = collection(tmp_path, 2)
    (tmp_path / "bright.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef bright():\n"
        "    net = nn.Conv2d(3, 2, 4, stride=4)\n    nn.init.constant_(net.weight, 1e4)\n    return net\n"
    )
    options = {"backbone": f"{tmp_path / 'bright.py'}:bright", "dtype": "float16"}
    regions = extracted(tmp_path / "photos", boxes, **options)
    codes = Counter(error.code for error in regions.errors())
    assert len(regions) + codes["RA302"] == 6
    assert codes["RA302"] > 0
    assert "Use float32" in next(iter(regions.errors())).reason
    wide = extracted(tmp_path / "photos", boxes, **{**options, "dtype": "float32"}, out=tmp_path / "wide")
    assert len(wide) == 6


def test_a_folder_of_nothing_but_broken_files_stops(tmp_path, extracted):
    boxes = collection(tmp_path, 3)
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(SampleError, match="RA706: expected images that can be read; none of 3 can"):
        extracted(tmp_path / "photos", boxes)


def test_boxes_of_another_form_stop_it(tmp_path, extracted):
    collection(tmp_path, 6)
    rows = ["image,x1,y1,x2,y2"]
    for number in range(6):
        rows += [
            f"{number:04d}.png,{x},{y},{width},{height}" for x, y, width, height in [[30, 20, 8, 9], [33, 28, 9, 6]]
        ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    with pytest.raises(
        SampleError, match=r"RA706: .*12 of the 12 boxes of a sample are refused.*RA204.*x, y, width, height"
    ):
        extracted(tmp_path / "photos", tmp_path / "boxes.csv")
    assert not list((tmp_path / "regions" / "parts").iterdir())
    regions = extracted(tmp_path / "photos", tmp_path / "boxes.csv", force=True)
    assert len(regions) == 0
    assert len(list(regions.errors())) == 12


def test_the_doctor_stops_it_and_force_goes_on(tmp_path, extracted):
    collection(tmp_path, 6, sizes_hw=[(480, 640)])
    rows = ["image,x1,y1,x2,y2"]
    for number in range(6):  # fractions of the sides, read as pixels
        rows += [f"{number:04d}.png,{0.1 * place},{0.1},{0.1 * place + 0.4},{0.7}" for place in range(5)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    with pytest.raises(SampleError, match=r"RA706: .*the doctor found RA103") as caught:
        extracted(tmp_path / "photos", tmp_path / "boxes.csv")
    assert "RA103" in {finding.code for finding in caught.value.report.findings}
    assert len(extracted(tmp_path / "photos", tmp_path / "boxes.csv", force=True)) == 30


def test_boxes_off_the_image_warn_nobody(tmp_path, extracted, recwarn):
    boxes = collection(tmp_path, 5)
    record = json.loads(boxes.read_text())
    record["annotations"][0]["bbox"] = [60, 44, 400, 400]
    boxes.write_text(json.dumps(record))
    with set_policy("raise"):
        regions = extracted(tmp_path / "photos", boxes)
    assert regions[0].coverage < 0.01
    assert not [warning for warning in recwarn if "RA1" in str(warning.message)]


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")])
def test_a_lack_of_memory_is_no_error_of_an_image(tmp_path, extracted, monkeypatch, error):
    boxes = collection(tmp_path, 2)
    extracted(tmp_path / "photos", boxes)
    os.unlink(tmp_path / "regions" / "parts" / "00000000.parquet")

    def fails(self, images):
        raise error

    monkeypatch.setattr(work.Embed, "__call__", fails)
    extracted_error = type(error)
    with pytest.raises(extracted_error):
        extracted(tmp_path / "photos", boxes, force=True)
