"""Pascal VOC's form: pixels from 1, what is carried through, entities, and the blood cells of BCCD."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest

from roialign.errors import AnnotationError
from roialign.extraction.boxes import open_boxes
from roialign.extraction.boxes.voc import Voc
from roialign.extraction.images import list_images

BCCD = os.environ.get("ROIALIGN_BCCD")
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>640</xmax><ymax>480</ymax></bndbox>"
SIDES = ("xmin", "ymin", "xmax", "ymax")
SIZE = "<size><width>640</width><height>480</height><depth>3</depth></size>"


def read(text: str) -> tuple[list[list[float]], dict[str, tuple[object, ...]], tuple[int, int] | None]:
    found = Voc().read(text.encode())
    return found.boxes_xyxy.tolist(), dict(found.columns), found.size_hw


def test_pixels_are_counted_from_one_the_last_included() -> None:
    boxes, _, size_hw = read(f"<annotation>{SIZE}<object>{BOX}</object></annotation>")
    assert boxes == [[0, 0, 640, 480]]
    assert size_hw == (480, 640)


def test_what_is_carried_through() -> None:
    first = f"<object><name> cat </name><difficult>1</difficult><truncated>0</truncated><pose>Left</pose>{BOX}</object>"
    part = f"<part><name>head</name>{BOX}</part>"
    second = f"<object><name>dog</name>{part}{BOX}</object><object>{BOX}</object>"
    boxes, columns, size_hw = read(f"<annotation>{first}{second}</annotation>")
    assert len(boxes) == 3
    assert columns == {
        "label": ("cat", "dog", None),
        "difficult": (True, None, None),
        "truncated": (False, None, None),
        "pose": ("Left", None, None),
    }
    assert set(columns) == set(Voc().columns)
    assert size_hw is None


def test_numbers_are_passed_on_as_they_are() -> None:
    box = "<bndbox><xmin>nan</xmin><ymin>-5.5</ymin><xmax> 1e3 </xmax><ymax>-9</ymax></bndbox>"
    boxes, _, _ = read(f"<annotation><object>{box}</object></annotation>")
    assert str(boxes) == "[[nan, -6.5, 1000.0, -9.0]]"


@pytest.mark.parametrize("size", ["<width>0</width><height>0</height>", "<width/><height/>", "<width>a</width>"])
def test_a_size_that_is_none_is_not_stated(size: str) -> None:
    assert read(f"<annotation><size>{size}</size></annotation>") == ([], dict.fromkeys(Voc().columns, ()), None)


def test_encodings_and_a_byte_order_mark() -> None:
    text = f'<?xml version="1.0" encoding="latin-1"?>\r\n<annotation><object><name>ä</name>{BOX}</object></annotation>'
    assert Voc().read(text.encode("latin-1")).columns["label"] == ("ä",)
    text = text.replace("latin-1", "utf-8")
    assert Voc().read(b"\xef\xbb\xbf" + text.encode()).columns["label"] == ("ä",)
    assert Voc().read(text.replace("utf-8", "utf-16").encode("utf-16")).columns["label"] == ("ä",)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "it is not XML: no element found: line 1, column 0"),
        ("<annotation><object>", r"it is not XML: no element found: line 1, column 20"),
        ("<annotations/>", "its root is <annotations>, not <annotation>"),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            r"the bndbox of object 0 is .*: xmin None",
        ),
        (f"<annotation><object>{BOX.replace('640', 'x')}</object></annotation>", r"ymin '1', xmax 'x', ymax '480'"),
        (f"<annotation><object>{BOX.replace('>640<', '><')}</object></annotation>", r"xmax ''"),
    ],
)
def test_what_cannot_be_read(text: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read(text)


def bomb() -> str:
    entities = '<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return f"<!DOCTYPE annotation [{entities}]><annotation><object><name>&i;</name>{BOX}</object></annotation>"


def test_files_with_entities_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "1.xml").write_text(bomb())
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom roialign.extraction.boxes.voc import Voc\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    Voc().read(Path(sys.argv[1]).read_bytes())\nexcept ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "1.xml")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert found[0] == "it declares the entity 'a', which no annotation needs"
    assert int(found[1]) < 20_000  # KiB; expanded it would be 10^9 bytes
    images = list_images(tmp_path)
    with pytest.raises(AnnotationError, match=r"^RA701: expected .*1\.xml of .*; it declares the entity"):
        open_boxes(tmp_path, images, tmp_path / "index.sqlite").of(images[0])


def test_entities_of_other_files_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    document = f'<!DOCTYPE annotation [<!ENTITY a SYSTEM "{secret.as_uri()}">]><annotation>&a;</annotation>'
    with pytest.raises(ValueError, match="it declares the entity 'a'"):
        read(document)


def test_a_document_type_alone_is_read() -> None:
    assert read(f"<!DOCTYPE annotation><annotation>{SIZE}</annotation>")[2] == (480, 640)


@pytest.mark.skipif(BCCD is None, reason="needs ROIALIGN_BCCD, the folder of the BCCD data set")
def test_all_blood_cells_of_bccd(tmp_path: Path) -> None:
    folder = Path(str(BCCD))
    images = list_images(folder / "JPEGImages")
    source = open_boxes(folder, images, tmp_path / "index.sqlite")
    assert len(images) == source.matching.by_stem == 364
    assert source.matching.names_without == source.matching.images_without == 0
    count = 0
    for image in images:
        found = source.of(image)
        assert found is not None
        page = ElementTree.parse(folder / "Annotations" / Path(image.image_id).with_suffix(".xml").name)
        corners = [[float(box.findtext(side, "")) for side in SIDES] for box in page.iter("bndbox")]
        assert numpy.add(found.boxes_xyxy, [1, 1, 0, 0]).tolist() == corners
        assert found.columns["label"] == tuple(thing.findtext("name") for thing in page.iter("object"))
        assert found.size_hw == (480, 640)
        count += len(found)
    assert count == 4888
