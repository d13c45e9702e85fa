"""CSV and Parquet: the names of columns that are accepted, types, empty cells, broken rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from roialign.errors import AnnotationError
from roialign.extraction.boxes import OpenBoxes
from roialign.extraction.items import ImageBoxes

from .scenes import opened, refs


def read(folder: Path, text: str, *names: str, name: str = "boxes.csv") -> OpenBoxes:
    (folder / name).write_bytes(text.encode())
    return opened(folder / name, folder, *(names or ("a.jpg",)))


def of(source: OpenBoxes, name: str = "a.jpg") -> ImageBoxes:
    found = source.of(refs(name)[0])
    assert found is not None
    return found


HEADERS = {  # of the row a.jpg, 1, 2, 31, 42 in this order, or with sides of 30 and 40
    "image,x1,y1,x2,y2": "corners",
    "Filename , XMin,YMin,XMax,YMax": "corners",
    "path,x_min,y_min,x_max,y_max": "corners",
    "img,left,top,right,bottom": "corners",
    "image_id,x,y,w,h": "sides",
    "file_name,x,y,width,height": "sides",
    "file,left,top,width,height": "sides",
}


@pytest.mark.parametrize("header", HEADERS)
def test_the_names_of_columns(tmp_path: Path, header: str) -> None:
    values = "1,2,31,42" if HEADERS[header] == "corners" else "1,2,30,40"
    found = of(read(tmp_path, f"{header}\na.jpg,{values}\n"))
    assert found.boxes_xyxy.tolist() == [[1, 2, 31, 42]]
    assert found.columns == {}
    assert found.size_hw is None


def test_width_and_height_beside_corners_are_the_pictures(tmp_path: Path) -> None:
    found = of(read(tmp_path, "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,640,480,cat,1,2,3,4\n"))
    assert (found.size_hw, found.columns) == ((480, 640), {"label": ("cat",)})
    found = of(read(tmp_path, "image,x,y,width,height,image_width,image_height\na.jpg,1,2,3,4,640,480\n"))
    assert (found.size_hw, found.boxes_xyxy.tolist()) == ((480, 640), [[1, 2, 4, 6]])


def test_order_of_columns_does_not_matter_and_further_image_columns_are_carried(tmp_path: Path) -> None:
    source = read(tmp_path, "image_id,y2,x2,file_name,y1,x1,confidence,name\n17,4,3,a.jpg,2,1,0.5,cat\n")
    assert of(source).boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert of(source).columns == {"input_image_id": (17,), "score": (0.5,), "label": ("cat",)}


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_delimiters_line_ends_quotes_and_a_byte_order_mark(tmp_path: Path, delimiter: str, ending: str) -> None:
    rows = ["image", "x1", "y1", "x2", "y2", "label"], ['"ä, b.jpg"', "1", "2", "3", "4", '"a ""big""\ncat"'], []
    text = "\ufeff" + ending.join(delimiter.join(row) for row in rows)
    found = of(read(tmp_path, text, "ä, b.jpg"), "ä, b.jpg")
    assert found.boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert found.columns == {"label": ('a "big"\ncat',)}


def test_types_are_the_narrowest_that_hold_a_column(tmp_path: Path) -> None:
    header = "image,x1,y1,x2,y2,whole,part,truth,code,words,empty,huge,level"
    rows = ["a.jpg,1,2,3,4,-3,1,true,007,nan,,9223372036854775808,1", "a.jpg,1,2,3,4,,.5e3,FALSE,8,x,,1,2"]
    source = read(tmp_path, "\n".join([header, *rows]))
    assert source.columns == {
        "whole": "int64",
        "part": "float64",
        "truth": "bool",
        "code": "string",
        "words": "string",
        "empty": "string",
        "huge": "string",
        "input_level": "int64",
    }
    assert of(source).columns == {
        "whole": (-3, None),
        "part": (1.0, 500.0),
        "truth": (True, False),
        "code": ("007", "8"),
        "words": ("nan", "x"),
        "empty": (None, None),
        "huge": ("9223372036854775808", "1"),
        "input_level": (1, 2),
    }


def test_ids_are_the_numbers_of_rows_or_a_column(tmp_path: Path) -> None:
    rows = "b.jpg,1,2,3,4,x\na.jpg,1,2,3,4,y\nb.jpg,5,6,7,8,z\n"
    source = read(tmp_path, f"image,x1,y1,x2,y2,note\n{rows}", "a.jpg", "b.jpg")
    assert of(source, "b.jpg").box_ids == ("0", "2")
    source = read(tmp_path, f"image,x1,y1,x2,y2,box_id\n{rows}", "a.jpg", "b.jpg")
    assert of(source, "b.jpg").box_ids == ("x", "z")
    assert source.columns == {}


def test_empty_cells(tmp_path: Path) -> None:
    source = read(tmp_path, "image,x1,y1,x2,y2\na.jpg,,,,\nb.jpg,1,,3,nan\n", "a.jpg", "b.jpg")
    assert of(source).boxes_xyxy.shape == (0, 4)
    assert str(of(source, "b.jpg").boxes_xyxy.tolist()) == str([[1.0, math.nan, 3.0, math.nan]])


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("b.jpg,1,2,3,wide,10,10", r"line 3: 'wide' is not a number"),
        ("b.jpg,1,2,3", r"line 3 has 4 fields where the header has 7"),
        ("b.jpg,1,2,3,4,10,10,11", r"line 3 has 8 fields"),
        ("b.jpg,1,2,3,4,10,-1", r"line 3: -1 x 10 is no size of an image"),
        ("b.jpg,1,2,3,4,10,10\nb.jpg,1,2,3,4,10,11", r"line 4 says that the image is of \(11, 10\), an earlier one"),
    ],
)
def test_a_broken_row_costs_its_image(tmp_path: Path, row: str, wanted: str) -> None:
    text = f"image,x1,y1,x2,y2,image_width,image_height\na.jpg,1,2,3,4,20,20\n{row}\n"
    source = read(tmp_path, text, "a.jpg", "b.jpg")
    with pytest.raises(AnnotationError, match=rf"^RA701: expected boxes of b\.jpg in .* as numbers; {wanted}"):
        source.of(refs("b.jpg")[0])
    assert len(of(source)) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", r"with one column that names the image .* and four with the box .*are none\. The file is empty\."),
        ("a.jpg,1,2,3,4,cat\n", r"its columns are a\.jpg, 1, 2, 3, 4, cat\. Its first line seems to be a row: write"),
        ("image,x1,y1,x2\n", r"with four with the box \(x1, y1, x2, y2; .*x, y, w, h; .*\); its columns are image, x1"),
        ("x1,y1,x2,y2,label\n", r"with one column that names the image \(file_name, .*\); its columns are x1, y1,"),
        ("image,x1,X1,y1,x2,y2\n", r"columns of different names in .*; 'X1' comes twice"),
        ("image,x1,y1,x2,y2\n,1,2,3,4\n", r"the name of an image in each row of .*; line 2 has none\."),
        ("image,x1,y1,x2,y2\n1\n,1\n", r"line 3 has none\."),
        (f"image,x1,y1,x2,y2,n\na.jpg,1,2,3,4,{'x' * 200_000}\n", r"as CSV; field larger than .*: line 2\."),
    ],
    ids=["empty", "no header", "no y2", "no image", "twice", "no name", "no name in a short row", "a huge field"],
)
def test_what_cannot_be_a_table_is_an_error_at_once(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(AnnotationError, match=rf"^RA701: expected .*{wanted}"):
        read(tmp_path, text)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes("image,x1,y1,x2,y2\nä.jpg,1,2,3,4\n".encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"^RA701: expected .*boxes\.csv as UTF-8; .*0xe4"):
        opened(tmp_path / "boxes.csv", tmp_path, "ä.jpg")


def test_a_header_alone_is_a_table_without_boxes(tmp_path: Path) -> None:
    source = read(tmp_path, "image,x1,y1,x2,y2,label\n")
    assert source.of(refs("a.jpg")[0]) is None
    assert source.columns == {"label": "string"}


def parquet(folder: Path, columns: dict[str, Any], **options: Any) -> OpenBoxes:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `extraction`")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "boxes.parquet", **options)
    return opened(folder / "boxes.parquet", folder, "a.jpg", "7")


def test_types_of_a_parquet_file_are_its_own(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `extraction`")
    columns: dict[str, Any] = {
        "image": ["a.jpg"] * 3,
        "x1": [1, 2, None],
        "y1": [1.5, 2.5, math.nan],
        "x2": [3, 4, 5],
        "y2": [6, 7, 8],
        "class": pyarrow.array(["cat", None, "dog"]).dictionary_encode(),
        "n": pyarrow.array([1, 2, 3], "int8"),
        "f": pyarrow.array([0.5, None, 2], "float32"),
        "b": [True, False, None],
        "u": pyarrow.array([1 << 63, 0, None], "uint64"),
        "list": [[1], [2], [3]],
        "none": [None] * 3,
    }
    source = parquet(tmp_path, columns, row_group_size=2)
    wanted = {"label": "string", "n": "int64", "f": "float64", "b": "bool", "u": "string"}
    assert source.columns == wanted
    assert of(source).columns == {
        "label": ("cat", None, "dog"),
        "n": (1, 2, 3),
        "f": (0.5, None, 2.0),
        "b": (True, False, None),
        "u": (str(1 << 63), "0", None),
    }
    boxes = [[1.0, 1.5, 3.0, 6.0], [2.0, 2.5, 4.0, 7.0], [math.nan, math.nan, 5.0, 8.0]]
    assert str(of(source).boxes_xyxy.tolist()) == str(boxes)


def test_images_of_a_parquet_file_may_be_numbers(tmp_path: Path) -> None:
    source = parquet(tmp_path, {"image_id": [7], "x": [1], "y": [2], "w": [3], "h": [4]})
    assert of(source, "7").boxes_xyxy.tolist() == [[1, 2, 4, 6]]


def test_a_parquet_file_with_other_columns(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"^RA701: .* its columns are image, bbox\."):
        parquet(tmp_path, {"image": ["a"], "bbox": ["1 2 3 4"]})
    with pytest.raises(AnnotationError, match=r"^RA701: .*; row 1 has none"):
        parquet(tmp_path, {"image": ["a.jpg", None], "x": [1, 1], "y": [2, 2], "w": [3, 3], "h": [4, 4]})
