"""Boxes of a table: a CSV or Parquet file with one row a box."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from roialign.errors import AnnotationError
from roialign.extraction.boxes.carried import ColumnTypes, as_number, carried_name
from roialign.extraction.boxes.index import Filled, IndexedBoxes, Tables, open_index
from roialign.extraction.items import ColumnType
from roialign.extraction.packages import needed

_IMAGE = (
    *("file_name", "filename", "image_path", "image_file", "image_name", "path", "file", "image", "img"),
    *("image_id", "imageid"),
)
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
_SIZES = (("image_height", "image_width"), ("img_height", "img_width"), ("height", "width"))
_RENAMED = {
    "label": ("label", "class", "class_name", "category", "category_name", "labelname", "name"),
    "score": ("score", "confidence", "conf", "probability"),
}
_BOX_ID = "box_id"


@dataclass(frozen=True)
class _Roles:
    """The places of the columns by what they are for."""

    image: int
    box: tuple[int, ...]  # four of them
    has_sides: bool
    size_hw: tuple[int, ...] | None  # two
    box_id: int | None
    carried: dict[int, str]


def open_csv(path: str, images: Sequence[str], index: str) -> IndexedBoxes:
    """The boxes of a CSV file with a header and one row a box.

    Convention: one column names the image; four are the box in pixels, x1, y1, x2, y2 or xmin, ymin, xmax, ymax or the
    like, or x, y, w, h, from which x2 = x + w. Where the corners are given, width and height are the picture's size. A
    row whose four numbers are empty says that the image is known and has no box. All other columns are carried through,
    the class as "label" and the confidence as "score", with the narrowest type that holds them. The ids of boxes are
    those of the column box_id, or the numbers of the rows from 0. Columns are parted by comma, semicolon or tab.

    Args:
        images: the ids of the collection.
        index: where the boxes are put on the disk; one of the same file is used again.

    Raises:
        AnnotationError: RA701, with the names that are accepted and those that are there, or with the line; RA705,
            where names fit several images.
    """

    def fill(tables: Tables) -> Filled:
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                head = file.readline()
                file.seek(0)
                rows = csv.reader(file, delimiter=max(",;\t", key=head.count))
                return _fill_from_csv(path, rows, tables)
        except UnicodeDecodeError as error:
            raise AnnotationError(f"RA701: expected {path} as UTF-8; {error}.") from error

    return open_index(path, index, fill, images, "csv")


def open_parquet(path: str, images: Sequence[str], index: str) -> IndexedBoxes:
    """The boxes of a Parquet file with one row a box, whose columns are those of `open_csv`.

    Columns of numbers, text and truth values are carried through with their types, others are not.
    """

    def fill(tables: Tables) -> Filled:
        pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
        try:
            with parquet.ParquetFile(path, memory_map=True) as file:
                return _fill_from_parquet(path, file, tables)
        except pyarrow.ArrowInvalid as error:
            raise AnnotationError(f"RA701: expected {path} as a Parquet file; {error}.") from error

    return open_index(path, index, fill, images, "parquet")


def _fill_from_csv(path: str, rows: Any, tables: Tables) -> Filled:
    types = ColumnTypes()
    try:
        header: list[str] = next(rows, [])
        roles = _roles(path, header)
        filling = _Filling(path, roles, tables)
        for row in rows:
            where = f"line {rows.line_num}"
            if len(row) == len(header):
                for place, name in roles.carried.items():
                    if row[place]:
                        types.meet_text(name, row[place])
                filling.row([text or None for text in row], where)
            elif row:
                name = row[roles.image] if roles.image < len(row) else ""
                filling.fault(name, f"{where} has {len(row)} fields where the header has {len(header)}", where)
    except csv.Error as error:
        raise AnnotationError(f"RA701: expected {path} as CSV; {error}: line {rows.line_num}.") from error
    return Filled({name: types.found().get(name, "string") for name in roles.carried.values()})


def _fill_from_parquet(path: str, file: Any, tables: Tables) -> Filled:
    schema = file.schema_arrow
    types = {name: _column_type(schema.field(name).type) for name in schema.names}
    names = [name for name in schema.names if types[name] is not None]
    roles = _roles(path, names)
    filling, number = _Filling(path, roles, tables), 0
    for batch in file.iter_batches(batch_size=1 << 14, columns=names, use_threads=False):
        for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            filling.row(row, f"row {number}")
            number += 1
    return Filled({name: types[names[place]] or "string" for place, name in roles.carried.items()})


class _Filling:
    def __init__(self, path: str, roles: _Roles, tables: Tables) -> None:
        self.path, self.roles, self.tables = path, roles, tables
        self.images: dict[str, tuple[int, tuple[int, int] | None]] = {}
        self.count = 0

    def row(self, row: Sequence[Any], where: str) -> None:
        number, self.count = self.count, self.count + 1
        roles, name = self.roles, row[self.roles.image]
        try:
            size_hw = None if roles.size_hw is None else _size(*(row[place] for place in roles.size_hw))
            box = tuple(as_number(row[place]) for place in roles.box)
        except ValueError as error:
            self.fault(name, f"{where}: {error}", where)
            return
        key, known_hw = self.image(name, where, size_hw)
        if size_hw != known_hw:
            self.fault(name, f"{where} says that the image is of {size_hw}, an earlier one of {known_hw}", where)
        if all(row[place] is None for place in roles.box):
            return
        if roles.has_sides:
            box = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        box_id = number if roles.box_id is None else row[roles.box_id]
        self.tables.add_box(key, str(box_id), box, [row[place] for place in roles.carried], None)

    def fault(self, name: Any, reason: str, where: str) -> None:
        key, _ = self.image(name, where, None)
        self.tables.add_fault(key, reason)

    def image(self, name: Any, where: str, size_hw: tuple[int, int] | None) -> tuple[int, tuple[int, int] | None]:
        if name is None or name == "":
            raise AnnotationError(f"RA701: expected the name of an image in each row of {self.path}; {where} has none.")
        name = str(name)
        if name not in self.images:
            self.images[name] = (len(self.images), size_hw)
            self.tables.add_image(len(self.images) - 1, name, size_hw)
        return self.images[name]


def _roles(path: str, names: Sequence[str]) -> _Roles:
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        known = places.setdefault(name.strip().lower(), place)
        if known != place:
            raise AnnotationError(f"RA701: expected columns of different names in {path}; {name!r} comes twice.")

    def first(options: Sequence[tuple[str, ...]]) -> tuple[int, ...] | None:
        found = next((option for option in options if all(name in places for name in option)), None)
        return None if found is None else tuple(places[name] for name in found)

    image, corners = first([(name,) for name in _IMAGE]), first(_CORNERS)
    box = corners or first(_SIDES)
    if image is None or box is None:
        raise _missing(path, names, image is None, box is None)
    sizes = first(_SIZES if corners else _SIZES[:2])
    box_id = places.get(_BOX_ID)
    used = {*image, *box, *(sizes or ()), box_id}
    carried = {place: carried_name(name) for place, name in enumerate(names) if place not in used}
    for name, options in _RENAMED.items():
        found = [places[option] for option in options if places.get(option) in carried]
        if found and name not in carried.values():
            carried[found[0]] = name
    return _Roles(image[0], box, corners is None, sizes, box_id, carried)


def _missing(path: str, names: Sequence[str], no_image: bool, no_box: bool) -> AnnotationError:
    wanted = []
    if no_image:
        wanted.append(f"one column that names the image ({', '.join(_IMAGE)})")
    if no_box:
        wanted.append(f"four with the box ({'; '.join(', '.join(four) for four in (*_CORNERS, *_SIDES))})")
    hint = ""
    if not names:
        hint = " The file is empty."
    elif any(_is_number(name) for name in names):
        hint = " Its first line seems to be a row: write the names above it."
    return AnnotationError(
        f"RA701: expected {path} with {' and '.join(wanted)}; its columns are {', '.join(names) or 'none'}.{hint}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _size(height: Any, width: Any) -> tuple[int, int] | None:
    sides = as_number(height), as_number(width)
    if any(math.isnan(side) for side in sides):
        return None
    if not all(side > 0 and side.is_integer() for side in sides):
        raise ValueError(f"{height} x {width} is no size of an image")
    return int(sides[0]), int(sides[1])


def _column_type(kind: Any) -> ColumnType | None:
    types = needed("pyarrow").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return "int64" if not types.is_uint64(kind) else "string"
    if types.is_floating(kind):
        return "float64"
    return "string" if types.is_string(kind) or types.is_large_string(kind) else None
