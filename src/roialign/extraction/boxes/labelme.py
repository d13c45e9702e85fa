"""Boxes of LabelMe's form: one JSON file an image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roialign.extraction.boxes.carried import as_number
from roialign.extraction.boxes.outline import box_around
from roialign.extraction.items import ColumnType, ImageBoxes
from roialign.extraction.packages import needed

_COLUMNS: dict[str, ColumnType] = {"label": "string", "shape_type": "string", "group_id": "int64"}

_CORNERS = 128  # of a polygon that stands for a circle


@dataclass(frozen=True)
class LabelMe:
    """LabelMe: shapes of points in pixels.

    Convention: the box of a shape is that around its points, of a circle that around the circle; a polygon is its own
    mask, and a circle that of a polygon with very many corners.
    """

    name: str = "LabelMe's"
    columns: Mapping[str, ColumnType] = field(default_factory=_COLUMNS.copy)

    def read(self, content: bytes) -> ImageBoxes:
        """What a file says; ValueError with the reason, if it cannot be read."""
        page = json.loads(content.decode("utf-8-sig"))
        shapes = page.get("shapes") if isinstance(page, dict) else None
        if not isinstance(shapes, list):
            raise ValueError("it has no list of shapes; a COCO file is passed itself, not its folder")
        read = [_shape(index, shape) for index, shape in enumerate(shapes)]
        masks = tuple(mask for _, mask in read)
        groups = (shape.get("group_id") for shape in shapes)
        numpy = needed("numpy")
        return ImageBoxes(
            numpy.array([box for box, _ in read], dtype=numpy.float64).reshape(-1, 4),
            tuple(map(str, range(len(shapes)))),
            {
                "label": tuple(None if shape.get("label") is None else str(shape["label"]) for shape in shapes),
                "shape_type": tuple(_type(shape) for shape in shapes),
                "group_id": tuple(group if isinstance(group, int) else None for group in groups),
            },
            _size_hw(page),
            masks=masks if any(mask is not None for mask in masks) else None,
        )


def _shape(index: int, shape: Any) -> tuple[list[float], list[list[float]] | None]:
    try:
        points = [(as_number(x), as_number(y)) for x, y in shape["points"]]
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"shapes[{index}] has no list of points [x, y]") from None
    if not points:
        raise ValueError(f"shapes[{index}] has no points")
    xs, ys = zip(*points, strict=True)
    if _type(shape) == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return [xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius], [_circle(xs[0], ys[0], radius)]
    outline = [[float(value) for point in points for value in point]] if _type(shape) == "polygon" else None
    return box_around(xs, ys), outline


def _circle(x: float, y: float, radius: float) -> list[float]:
    turns = (math.tau * corner / _CORNERS for corner in range(_CORNERS))
    return [side for turn in turns for side in (x + radius * math.cos(turn), y + radius * math.sin(turn))]


def _type(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")


def _size_hw(page: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = page.get("imageHeight"), page.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None
