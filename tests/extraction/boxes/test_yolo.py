"""YOLO's form: centres and sizes in fractions, confidences, outlines, the names of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from roialign.errors import AnnotationError
from roialign.extraction.boxes.yolo import Yolo, classes_of
from roialign.extraction.items import ImageBoxes

from .scenes import opened, refs


def read(text: str) -> ImageBoxes:
    return Yolo({0: "cat"}).read(text.encode())


def test_centres_and_sizes_become_corners_in_fractions() -> None:
    found = read("0 0.5 0.5 1 1\n3 0.25 0.5 0.25 0.5\r\n\n  1\t0.5 0.5 -0.5 0 ")
    assert found.boxes_xyxy.tolist() == [[0, 0, 1, 1], [0.125, 0.25, 0.375, 0.75], [0.75, 0.5, 0.25, 0.5]]
    assert found.normalized
    assert found.size_hw is None
    assert found.masks is None
    assert found.box_ids == ("0", "1", "2")
    assert found.columns == {"label": ("cat", "3", "1"), "class_index": (0, 3, 1), "score": (None, None, None)}
    assert set(found.columns) == set(Yolo({}).columns)


def test_confidences_and_outlines() -> None:
    triangle = [0.1, 0.2, 0.3, 0.25, 0.15, 0.4]
    numbers = " ".join(map(str, triangle))
    found = read(f"0 0.5 0.5 1 1 0.75\n0 {numbers}\n1 {numbers} 0.5\n0 nan 0.5 1 1\n0 0.2 0.2 nan 0.1 0.1 0.1")
    assert found.boxes_xyxy[:3].tolist() == [[0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]
    assert str(found.boxes_xyxy[3:].tolist()) == "[[nan, 0.0, nan, 1.0], [nan, nan, nan, nan]]"
    assert found.masks is not None
    assert found.masks[:4] == (None, [triangle], [triangle], None)
    assert found.columns["score"] == (0.75, None, 0.5, None, None)


def test_an_empty_file_says_that_there_is_no_box() -> None:
    for text in ("", "\n", "\ufeff"):
        found = read(text)
        assert found.boxes_xyxy.shape == (0, 4)
        assert found.columns == {"label": (), "class_index": (), "score": ()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0 0.5 0.5 1 1\n0 0.5 0.5 1", "line 2 has 4 numbers; wanted class cx cy w h or class x y"),
        ("0", "line 1 has 1 numbers"),
        ("cat 0.5 0.5 1 1", "line 1 holds what is not a number: 'cat 0.5 0.5 1 1'"),
        ("0.5 0.5 0.5 1 1", r"line 1 begins with 0\.5, which is no number of a class"),
        ("-1 0.5 0.5 1 1", "line 1 begins with -1"),
        ("nan 0.5 0.5 1 1", "line 1 begins with nan"),
        ("0,0.5,0.5,1,1", "line 1 holds what is not a number"),
    ],
)
def test_what_cannot_be_read(text: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read(text)


NAMES = {
    "classes.txt": "cat\r\n\r\ntraffic light\n",
    "obj.names": "cat\ntraffic light",
    "data.yaml": "path: ../x\nnames: [cat, traffic light]\n",
    "dataset.yml": "names:\n  1: traffic light\n  0: cat\n",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", ["", "labels", "labels/train"])
def test_the_names_of_the_classes(tmp_path: Path, name: str, depth: str) -> None:
    if "y" in name[-4:]:
        pytest.importorskip("yaml", reason="needs the extra `extraction`")
    (tmp_path / "set" / depth).mkdir(parents=True)
    (tmp_path / "set" / name).write_bytes(b"\xef\xbb\xbf" + NAMES[name].encode())
    (tmp_path / "set" / depth / "1.txt").write_text("1 0.5 0.5 1 1\n")
    assert classes_of(str(tmp_path / "set" / depth)) == {0: "cat", 1: "traffic light"}
    source = opened(tmp_path / "set" / depth, tmp_path, "1.jpg")
    found = source.of(refs("1.jpg")[0])
    assert found is not None
    assert found.columns["label"] == ("traffic light",)


def test_other_names_are_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("1 0.5 0.5 1 1\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    first = opened(tmp_path, tmp_path, "1.jpg").fingerprint
    (tmp_path / "classes.txt").write_text("dog\n")
    assert opened(tmp_path, tmp_path, "1.jpg").fingerprint != first


@pytest.mark.parametrize("text", ["names: cat", "nc: 3", "- a", "names: {a: b}", "a: [", ""])
def test_names_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    pytest.importorskip("yaml", reason="needs the extra `extraction`")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=r"^RA701: expected the names of YOLO's classes in .*data\.yaml; it "):
        classes_of(str(tmp_path))
