"""LabelMe's form: rectangles, polygons, circles, and files that are none."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from roialign.extraction.boxes.labelme import LabelMe
from roialign.extraction.items import ImageBoxes


def read(*shapes: Any, **fields: Any) -> ImageBoxes:
    return LabelMe().read(json.dumps({"shapes": shapes, **fields}).encode())


def test_the_box_is_that_around_the_points() -> None:
    polygon = [[1, 2], [5.5, 3], [4, 9]]
    found = read(
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 40], [30, 20]], "group_id": 3, "flags": {}},
        {"label": "dog", "points": polygon},
        {"label": 7, "shape_type": "circle", "points": [[10, 10], [13, 14]], "group_id": None},
        {"shape_type": "point", "points": [[1, 1]]},
        imageHeight=48,
        imageWidth=64,
    )
    assert found.boxes_xyxy.tolist() == [[10, 20, 30, 40], [1, 2, 5.5, 9], [5, 5, 15, 15], [1, 1, 1, 1]]
    assert found.masks is not None
    rectangle, outline, (circle,), point = found.masks
    assert (rectangle, outline, point) == (None, [[1.0, 2.0, 5.5, 3.0, 4.0, 9.0]], None)
    assert len(circle) == 256
    for x, y in zip(circle[0::2], circle[1::2], strict=True):
        assert math.dist((x, y), (10, 10)) == pytest.approx(5)
    assert found.columns == {
        "label": ("cat", "dog", "7", None),
        "shape_type": ("rectangle", "polygon", "circle", "point"),
        "group_id": (3, None, None, None),
    }
    assert set(found.columns) == set(LabelMe().columns)
    assert found.size_hw == (48, 64)
    assert not found.normalized


def test_points_that_are_nan_make_a_box_of_nan() -> None:
    found = read({"shape_type": "rectangle", "points": [[1, 2], [math.nan, 4]]})
    assert str(found.boxes_xyxy.tolist()) == "[[nan, nan, nan, nan]]"


@pytest.mark.parametrize("size", [{}, {"imageHeight": None, "imageWidth": 3}, {"imageHeight": 0, "imageWidth": 3}])
def test_a_size_that_is_none_is_not_stated(size: dict[str, Any]) -> None:
    found = read(**size)
    assert found.size_hw is None
    assert found.boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    "shape", [{}, {"points": [[1, 2, 3]]}, {"points": [["a", 1]]}, {"points": 1}, {"points": []}, [], 3, "x", None]
)
def test_a_shape_without_points_cannot_be_read(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"shapes\[1\] has no "):
        read({"points": [[1, 1], [2, 2]]}, shape)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_what_cannot_be_read(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|decode"):
        LabelMe().read(content)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"shapes": {}}', b"1"])
def test_what_has_no_shapes(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it has no list of shapes; a COCO file is passed itself"):
        LabelMe().read(content)
