"""The same boxes come out of every form; each form is told by what is there."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy
import pytest

from roialign.errors import AnnotationError, OptionError

from .scenes import IMAGES, SCENES, WRITERS, opened, refs, write_coco, write_csv, write_voc, write_yolo


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_boxes_that_were_marked(tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path)
    source = opened(path, tmp_path)
    for scene, image in zip(SCENES, IMAGES, strict=True):
        found = source.of(image)
        assert found is not None
        boxes = found.boxes_xyxy
        assert boxes.shape == (len(scene.labels), 4)
        assert boxes.dtype == numpy.float64
        if form == "yolo":
            assert found.normalized
            assert found.size_hw is None
            boxes = boxes * [*scene.size_hw[::-1], *scene.size_hw[::-1]]
            numpy.testing.assert_allclose(boxes.reshape(-1), numpy.ravel(scene.boxes_xyxy), rtol=0, atol=1e-12)
        else:
            assert not found.normalized
            assert found.size_hw == scene.size_hw
            assert boxes.tolist() == [list(box) for box in scene.boxes_xyxy]
        assert found.columns["label"] == scene.labels
        assert len(set(found.box_ids)) == len(found) == len(scene.labels)
        assert set(found.columns) == set(source.columns)
        assert found.masks is None
    assert source.of(refs("b/4.jpg")[0]) is None
    assert list(source.unmatched(image.image_id for image in IMAGES)) == []
    matching = source.matching
    assert matching.by_path + matching.by_stem == 3
    assert matching.names_without == matching.images_without == 0


@pytest.mark.parametrize("form", WRITERS)
def test_a_source_goes_to_other_processes(tmp_path: Path, form: str) -> None:
    source = opened(WRITERS[form](tmp_path), tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for image in IMAGES:
        there, here = copy.of(image), source.of(image)
        assert there is not None
        assert here is not None
        assert there.boxes_xyxy.tolist() == here.boxes_xyxy.tolist()
        assert there.columns == here.columns


@pytest.mark.parametrize("form", WRITERS)
def test_the_fingerprint_is_of_the_content(tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path)
    first = opened(path, tmp_path).fingerprint
    moved = tmp_path / "moved" / path.name
    moved.parent.mkdir()
    shutil.move(path, moved)
    assert opened(moved, tmp_path).fingerprint == first
    changed = moved if moved.is_file() else sorted(moved.rglob("3.*"))[0]
    if form == "parquet":
        WRITERS["csv"](tmp_path)
        changed = tmp_path / "boxes.csv"
    with open(changed, "a") as file:
        file.write(" \n")
    assert opened(changed if form == "parquet" else moved, tmp_path).fingerprint != first


@pytest.mark.parametrize("form", ["voc", "yolo", "labelme"])
def test_a_broken_file_costs_its_image_alone(tmp_path: Path, form: str) -> None:
    folder = WRITERS[form](tmp_path)
    (broken,) = folder.rglob("2.*")
    for content in (b"\xff\xfe", b"{" * 100_000, b"<annotation>", b"0 1 2 3", b"[1]", b"<a/>", b'{"shapes": [{}]}'):
        broken.write_bytes(content)
        source = opened(folder, tmp_path)
        with pytest.raises(AnnotationError, match=r"^RA701: expected .*2\.\w+ of .* form; ."):
            source.of(IMAGES[1])
        assert [len(source.of(image) or ()) for image in (IMAGES[0], IMAGES[2])] == [3, 0]
    broken.unlink()
    with pytest.raises(AnnotationError, match=r"^RA701: .*No such file"):
        source.of(IMAGES[1])


@pytest.mark.parametrize("form", ["coco", "csv", "parquet"])
def test_a_large_file_that_is_broken_is_an_error_at_once(tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2] + b"\xff", b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(AnnotationError, match=r"^RA701: expected .*boxes"):
            opened(path, tmp_path)
        assert [one.name for one in tmp_path.iterdir()] == [path.name]  # no part of an index stays


def test_the_root_of_a_voc_data_set_is_told_by_its_annotations(tmp_path: Path) -> None:
    write_voc(tmp_path).rename(tmp_path / "Annotations")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("1\n")
    for form in (None, "voc"):
        found = opened(tmp_path, tmp_path, form=form).of(IMAGES[0])
        assert found is not None
        assert len(found) == 3


def test_notes_beside_folders_of_labels_are_no_annotations(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    for split in ("a", "b"):
        (folder / split).rename(tmp_path / split)
        (folder / split / "labels").mkdir(parents=True)
        for file in (tmp_path / split).iterdir():
            file.rename(folder / split / "labels" / file.name)
    (folder / "README.roboflow.txt").write_text("Exported")
    source = opened(folder, tmp_path, "a/images/Ä 1.jpg", "b/images/2.jpg", "b/images/3.jpg")
    assert source.matching.by_stem == 3
    assert source.matching.names_without == 0


def test_folders_of_several_forms_need_the_form(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "notes.txt").write_text("")
    with pytest.raises(AnnotationError, match=r"^RA701: .* has 3 \.xml, 1 \.txt\. Pass form='voc' or form='yolo'\."):
        opened(folder, tmp_path)
    assert opened(folder, tmp_path, form="voc").matching.by_stem == 3


def test_what_is_no_form(tmp_path: Path) -> None:
    (tmp_path / "boxes.pkl").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    for where, wanted in (
        (tmp_path / "boxes.pkl", r"got the file .*boxes\.pkl\. Pass form="),
        (tmp_path / "gone.json", r"gone\.json', which does not exist"),
        ("grid:3", r"'grid:3', which does not exist"),
        (tmp_path / "nothing", r"nothing has none of them\."),
    ):
        with pytest.raises(AnnotationError, match=f"^RA701: expected .*{wanted}"):
            opened(where, tmp_path)
    with pytest.raises(AnnotationError, match=r"^RA701: expected \.xml files in .*; there is none"):
        opened(tmp_path / "nothing", tmp_path, form="voc")
    with pytest.raises(AnnotationError, match=r"^RA701: expected one file of the form coco; got the folder"):
        opened(tmp_path, tmp_path, form="coco")
    with pytest.raises(AnnotationError, match=r"^RA701: .*form='voc', which is a folder's"):
        opened(write_csv(tmp_path), tmp_path, form="voc")
    with pytest.raises(OptionError, match=r"^RA506: expected form, one of coco, .*; got 'pascal'"):
        opened(tmp_path, tmp_path, form="pascal")


def test_the_form_can_be_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path).rename(tmp_path / "annotations.txt")
    assert opened(path, tmp_path, form="coco").matching.by_path == 3


def test_a_folder_of_coco_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    write_coco(tmp_path / "annotations")
    source = opened(tmp_path / "annotations", tmp_path, "boxes.jpg")
    with pytest.raises(AnnotationError, match=r"^RA701: .*no list of shapes; a COCO file is passed itself"):
        source.of(refs("boxes.jpg")[0])


@pytest.mark.parametrize("form", WRITERS)
def test_annotations_of_other_images_are_refused_when_none_fits(tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path)
    with pytest.raises(
        AnnotationError, match=r"^RA702: .*; none of its 3 names, as '.*', is one of the 2 images, as 'x"
    ):
        opened(path, tmp_path, "x.jpg", "y.jpg")
    source = opened(path, tmp_path, "x.jpg", "2.jpg")
    missing = list(source.unmatched(["x.jpg", "2.jpg"]))
    assert len(missing) == 2
    assert [Path(name).stem for name in sorted(missing)] == ["Ä 1", "3"]
    assert "1 of the collection have none, the first is x.jpg; 2 of the annotations are missing" in str(source.matching)
