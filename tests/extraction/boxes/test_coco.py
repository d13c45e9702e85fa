"""COCO's form: what is carried through, the order of the file, pycocotools' reading of it, broken files."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from roialign.errors import AnnotationError
from roialign.extraction.boxes import OpenBoxes, members
from roialign.extraction.items import ImageBoxes

from .scenes import CLASSES, IMAGES, coco_page, opened, refs


def written(folder: Path, page: Any) -> Path:
    path = folder / "boxes.json"
    path.write_text(page if isinstance(page, str) else json.dumps(page), encoding="utf-8")
    return path


def marks(*annotations: dict[str, Any]) -> dict[str, Any]:
    """A file with two images and these annotations of them."""
    images = [{"id": 7, "file_name": "1.jpg", "width": 60, "height": 40}, {"id": 8, "file_name": "2.jpg"}]
    defaults = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}
    full = [{"id": number, **defaults, **one} for number, one in enumerate(annotations)]
    return {"images": images, "annotations": full, "categories": [{"id": 1, "name": "cat"}]}


def of(source: OpenBoxes, name: str = "1.jpg") -> ImageBoxes:
    found = source.of(refs(name)[0])
    assert found is not None
    return found


def test_pycocotools_reads_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    from pycocotools.coco import COCO

    draw = random.Random(0)
    page = coco_page()
    page["images"] = [
        {"id": 3 * number, "file_name": f"{number:04d}.jpg", "height": 100, "width": 90} for number in range(50)
    ]
    page["annotations"] = [
        {
            "id": 1000 - number,
            "image_id": 3 * draw.randrange(50),
            "category_id": draw.choice((1, 2, 3)),
            "bbox": [draw.uniform(-5, 90) for _ in range(4)],
            "area": draw.random(),
            "iscrowd": draw.randrange(2),
            "segmentation": [[draw.uniform(0, 90) for _ in range(6)]] if draw.random() < 0.8 else [],
        }
        for number in range(600)
    ]
    path = written(tmp_path, page)
    with contextlib.redirect_stdout(None):
        oracle = COCO(str(path))
    images = refs(*(one["file_name"] for one in page["images"]))
    source = opened(path, tmp_path, *(image.image_id for image in images), with_masks=True)
    read = 0
    for image, entry in zip(images, page["images"], strict=True):
        wanted, found = oracle.imgToAnns[entry["id"]], of(source, image.image_id)
        assert found.box_ids == tuple(str(one["id"]) for one in wanted)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in wanted)]
        assert found.boxes_xyxy.tolist() == corners
        assert found.columns["label"] == tuple(oracle.cats[one["category_id"]]["name"] for one in wanted)
        assert found.columns["iscrowd"] == tuple(one["iscrowd"] for one in wanted)
        assert found.columns["area"] == tuple(one["area"] for one in wanted)
        assert found.masks == tuple(one["segmentation"] or None for one in wanted)
        assert found.size_hw == (100, 90)
        read += len(found)
    assert read == 600
    assert source.columns == {"label": "string", "category_id": "int64", "area": "float64", "iscrowd": "int64"}


@pytest.mark.parametrize("order", [("categories", "annotations", "images"), ("annotations", "images", "categories")])
def test_the_order_of_the_file_does_not_matter(tmp_path: Path, order: tuple[str, ...]) -> None:
    page = coco_page()
    found = of(opened(written(tmp_path, {key: page[key] for key in order}), tmp_path), IMAGES[0].image_id)
    assert found.columns["label"] == CLASSES


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("indent", [None, 40])
def test_chunks_may_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(members, "_CHUNK", chunk)
    page = marks(
        {"bbox": [1e-7, -2.5, math.inf, 12345678901234567890], "note": 'a "é\\u00e9" \\'}, {"bbox": [0, 0, 1, 1]}
    )
    page = {"info": {"year": 2026, "more": [True, None]}, "count": 123456, **page}
    source = opened(written(tmp_path, json.dumps(page, indent=indent)), tmp_path, "1.jpg")
    assert of(source).boxes_xyxy.tolist() == [[1e-7, -2.5, math.inf, 12345678901234567890 - 2.5], [0, 0, 1, 1]]
    assert of(source).columns["note"] == ('a "é\\u00e9" \\', None)


def test_scalars_are_carried_through_in_the_narrowest_type(tmp_path: Path) -> None:
    first = {"score": 1, "iscrowd": 0, "occluded": True, "note": "x", "mixed": 1, "huge": 1 << 70, "keypoints": [1, 2]}
    second = {"score": 0.5, "iscrowd": None, "attributes": {"a": 1}, "late": 3, "mixed": "b"}
    source = opened(written(tmp_path, marks(first, second)), tmp_path, "1.jpg")
    assert source.columns == {
        "label": "string",
        "category_id": "int64",
        "score": "float64",
        "iscrowd": "int64",
        "occluded": "bool",
        "note": "string",
        "mixed": "string",
        "huge": "string",
        "late": "int64",
    }
    assert of(source).columns == {
        "label": ("cat", "cat"),
        "category_id": (1, 1),
        "score": (1.0, 0.5),
        "iscrowd": (0, None),
        "occluded": (True, None),
        "note": ("x", None),
        "mixed": ("1", "b"),
        "huge": (str(1 << 70), None),
        "late": (None, 3),
    }
    assert type(of(source).columns["score"][0]) is float


def test_columns_of_the_rows_themselves_are_carried_under_another_name(tmp_path: Path) -> None:
    found = of(opened(written(tmp_path, marks({"level": 3, "x1": 0.5, "label": "own"})), tmp_path, "1.jpg"))
    assert found.columns == {
        "label": ("cat",),
        "category_id": (1,),
        "input_level": (3,),
        "input_x1": (0.5,),
        "input_label": ("own",),
    }


def test_boxes_are_passed_on_as_they_are(tmp_path: Path) -> None:
    boxes: list[list[Any]] = [
        [math.nan, 2, 3, 4],
        [None, 0, 1, 1],
        [5, 5, -3, 0],
        [1e6, -1e6, math.inf, 1],
        ["1", 2, 3, 4],
    ]
    found = of(opened(written(tmp_path, marks(*({"bbox": box} for box in boxes))), tmp_path, "1.jpg"))
    wanted = [
        *([math.nan, 2.0, math.nan, 6.0], [math.nan, 0.0, math.nan, 1.0], [5.0, 5.0, 2.0, 5.0]),
        *([1e6, -1e6, math.inf, -1e6 + 1], [1.0, 2.0, 4.0, 6.0]),
    ]
    assert str(found.boxes_xyxy.tolist()) == str(wanted)


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "wide"], 5, {"x": 1}, [True, 1, 1, 1], None])
def test_an_annotation_without_four_numbers_costs_its_image(tmp_path: Path, box: Any) -> None:
    page = marks({"bbox": box, "image_id": 8}, {"bbox": box, "image_id": 8}, {})
    source = opened(written(tmp_path, page), tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(
        AnnotationError, match=r"^RA701: .* of 2\.jpg in .*annotations\[0\] has the bbox .*, and 1 more\."
    ):
        source.of(refs("2.jpg")[0])
    assert len(of(source)) == 1


def test_an_id_that_comes_twice_costs_its_image(tmp_path: Path) -> None:
    source = opened(
        written(tmp_path, marks({"id": 4}, {"id": 4}, {"id": 4, "image_id": 8})), tmp_path, "1.jpg", "2.jpg"
    )
    with pytest.raises(AnnotationError, match=r"^RA701: expected an id for each box of 1\.jpg .*; 4 comes twice"):
        source.of(refs("1.jpg")[0])
    assert of(source, "2.jpg").box_ids == ("4",)


def test_masks_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    run_lengths = {"size": [40, 60], "counts": "abc\\d"}
    page = marks({"segmentation": run_lengths}, {"segmentation": []}, {"image_id": 8})
    path = written(tmp_path, page)
    assert of(opened(path, tmp_path, "1.jpg")).masks is None
    source = opened(path, tmp_path, "1.jpg", "2.jpg", with_masks=True)
    assert of(source).masks == (run_lengths, None)
    assert of(source, "2.jpg").masks is None
    assert of(source, "2.jpg").size_hw is None


def test_ids_of_images_may_be_texts(tmp_path: Path) -> None:
    page = marks({"image_id": "7"}, {"image_id": "7"})
    page["images"].append({"id": "7", "file_name": "3.jpg"})
    source = opened(written(tmp_path, page), tmp_path, "1.jpg", "3.jpg")
    assert [len(of(source, name)) for name in ("1.jpg", "3.jpg")] == [0, 2]


def test_annotations_of_images_that_the_file_does_not_name_are_told(tmp_path: Path) -> None:
    source = opened(written(tmp_path, marks({}, {"image_id": 99}, {"image_id": 98, "bbox": 1})), tmp_path, "1.jpg")
    assert list(source.unmatched(["1.jpg"])) == ["2.jpg", "image_id 98", "image_id 99"]


def test_a_category_without_a_name(tmp_path: Path) -> None:
    source = opened(written(tmp_path, marks({}, {"category_id": 5}, {"category_id": None})), tmp_path, "1.jpg")
    assert of(source).columns == {"label": ("cat", None, None), "category_id": (1, 5, None)}
    page = marks({"category_id": 1}, {})
    del page["annotations"][0]["category_id"]
    assert of(opened(written(tmp_path, page), tmp_path, "1.jpg")).columns["label"] == (None, "cat")
    page["categories"] = []
    assert opened(written(tmp_path, page), tmp_path, "1.jpg").columns == {"category_id": "int64"}


def test_a_file_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(coco_page(), indent=1).replace("\n", "\r\n").encode())
    assert opened(path, tmp_path).matching.by_path == 3


BROKEN = {
    "truncated": (lambda text: text[:-30], r"it ends too early; was it cut off: line 1, column \d+\."),
    "empty": (lambda text: "", r"it ends too early; was it cut off: line 1, column 1\."),
    "blank": (lambda text: " \n\n ", r"it ends too early; was it cut off: line 3, column 2\."),
    "no json": (lambda text: "image,x1", r"it does not begin with \{ or \[: line 1, column 1\."),
    "more behind": (lambda text: text + "\n{}", r"there is something behind its end: line 2, column 1\."),
    "a lost comma": (
        lambda text: text.replace('}, {"id": 2', '}\n {"id": 2'),
        r", is missing here: line 2, column 2\.",
    ),
    "a lost quote": (lambda text: text.replace('"b/3.jpg"', '"b/3.jpg'), r"line 1, column \d+\."),
    "a comma too many": (lambda text: text[:-1] + ",\n}", r"a comma stands before \}: line 2, column 1\."),
    "a bare key": (
        lambda text: text.replace('"categories"', "\ncategories"),
        r"a key in quotes .*: line 2, column 1\.",
    ),
    "no colon": (
        lambda text: text.replace('"categories":', '"categories"\n'),
        r": is missing here: line 2, column 2\.",
    ),
    "nested": (lambda text: text.replace('"b/3.jpg"', "[" * 100_000), r"it is nested too deeply: line 1"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("chunk", [16, 1 << 20])
def test_broken_json_is_an_error_at_once_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int
) -> None:
    monkeypatch.setattr(members, "_CHUNK", chunk)
    change, wanted = BROKEN[case]
    page = written(tmp_path, change(json.dumps(coco_page())))
    with pytest.raises(AnnotationError, match=rf"^RA701: expected .*boxes\.json as JSON; .*{wanted}"):
        opened(page, tmp_path)
    assert os.listdir(tmp_path) == ["boxes.json"]


@pytest.mark.parametrize("chunk", [16, 1 << 20])
def test_the_place_is_that_of_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(members, "_CHUNK", chunk)
    whole = json.dumps(coco_page(), indent=3)
    for at in range(whole.index("annotations"), len(whole) - 100, 29):
        text = whole[:at] + "\n\x01" + whole[at:]
        with pytest.raises(json.JSONDecodeError) as oracle:
            json.loads(text)
        place = f": line {oracle.value.lineno}, column {oracle.value.colno}."
        with pytest.raises(AnnotationError, match=re.escape(place)):
            list(members.JsonMembers(io.StringIO(text), "a.json"))


def test_a_file_that_was_cut_off_anywhere(tmp_path: Path) -> None:
    whole = json.dumps(coco_page())
    for length in range(1, len(whole), 17):
        with pytest.raises(AnnotationError, match=r"was it cut off: line 1, column \d+\.$"):
            list(members.JsonMembers(io.StringIO(whole[:length]), "a.json"))


def test_a_lost_quote_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_CHUNK", 100)
    monkeypatch.setattr(members, "_LARGEST", 1000)
    taken = []
    page = json.dumps({"images": [{"file_name": "x" * 100_000}]})

    class Watched:
        def read(self, count: int) -> str:
            taken.append(count)
            begin = sum(taken[:-1])
            return page[begin : begin + count]

    with pytest.raises(AnnotationError, match=r"^RA701: .*Unterminated string .*: line 1, column 27\."):
        list(members.JsonMembers(Watched(), "a.json"))  # type: ignore[arg-type]
    assert sum(taken) < 5000


WRONG = {
    "results": (
        [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}],
        r"of COCO's form; results name images by number",
    ),
    "a list": ([1, 2], r"of COCO's form; it is a list\."),
    "other keys": (
        {"shapes": [], "version": 1},
        r"it has no annotations and no images, its keys are shapes, version\.",
    ),
    "no keys": ({}, r"its keys are none\."),
    "no annotations": ({"images": []}, r"it has no annotations, its keys are images\."),
    "captions": (marks({"bbox": None, "caption": "a"}), r"none of its annotations has a bbox"),
    "an image without a name": (
        {"images": [{"id": 1}]},
        r"images of .* with id and file_name; got \{'id': 1\}\.",
    ),
    "an image that is none": ({"images": ["1.jpg"]}, r"with id and file_name; got '1\.jpg'\."),
    "a category without an id": ({"categories": [{"name": "a"}]}, r"categories of .* with id and name; got "),
    "a mark without an image": (marks({"image_id": None}), r"with an image_id; annotations\[0\] is \{'id': 0, "),
    "a mark that is none": ({"annotations": [3]}, r"with an image_id; annotations\[0\] is 3\."),
    "two images of one id": (
        {**marks(), "images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]},
        "the id 1 is",
    ),
    "two of one name": (
        {**marks(), "images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]},
        "the name 'a' is that of 2 images",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_of_cocos_form_is_an_error_at_once(tmp_path: Path, case: str) -> None:
    page, wanted = WRONG[case]
    with pytest.raises(AnnotationError, match=f"^RA701: expected .*{wanted}"):
        opened(written(tmp_path, page), tmp_path)


def test_a_file_without_annotations_knows_its_images(tmp_path: Path) -> None:
    source = opened(written(tmp_path, marks()), tmp_path, "1.jpg", "9.jpg")
    assert len(of(source)) == 0
    assert of(source).boxes_xyxy.shape == (0, 4)
    assert source.of(refs("9.jpg")[0]) is None
