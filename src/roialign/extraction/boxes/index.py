"""Boxes of one large file in an index on the disk, from which each image's are read when it is its turn."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from roialign.errors import AnnotationError
from roialign.extraction.boxes.carried import as_type
from roialign.extraction.boxes.matching import Matching, match
from roialign.extraction.items import ColumnType, ImageBoxes, ImageRef
from roialign.extraction.packages import needed

_VERSION = 1  # of the tables
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE images (key, name TEXT, height INTEGER, width INTEGER);
CREATE TABLE boxes (image, box_id TEXT, x1 REAL, y1 REAL, x2 REAL, y2 REAL, carried TEXT, mask TEXT);
CREATE TABLE faults (image, reason TEXT);
"""
_KEYS = (
    "CREATE UNIQUE INDEX image_keys ON images (key)",
    "CREATE UNIQUE INDEX image_names ON images (name)",
    "CREATE INDEX box_images ON boxes (image)",
    "CREATE INDEX fault_images ON faults (image)",
)
_AT_ONCE = 10_000
_OPEN = threading.local()  # the connection that this thread read from last


class Tables:
    """An index that is being filled. `key` is whatever the file calls an image by."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._boxes: list[tuple[Any, ...]] = []

    def add_image(self, key: Any, name: str, size_hw: tuple[int, int] | None) -> None:
        self._connection.execute("INSERT INTO images VALUES (?, ?, ?, ?)", (key, name, *(size_hw or (None, None))))

    def add_box(self, key: Any, box_id: str, xyxy: Sequence[float], carried: Sequence[Any], mask: Any) -> None:
        stored = None if mask is None else json.dumps(mask)
        self._boxes.append((key, box_id, *xyxy, json.dumps(carried), stored))
        if len(self._boxes) >= _AT_ONCE:
            self.flush()

    def add_fault(self, key: Any, reason: str) -> None:
        """Note why what the file says of an image cannot be read."""
        self._connection.execute("INSERT INTO faults VALUES (?, ?)", (key, reason))

    def flush(self) -> None:
        self._connection.executemany("INSERT INTO boxes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._boxes)
        self._boxes.clear()


@dataclass(frozen=True)
class Filled:
    """What a file was found to hold, once its boxes are in the tables."""

    carried: dict[str, ColumnType]
    """The types of what is carried, in the order in which the boxes have it."""
    labels: dict[Any, str] | None = None
    """The names of the classes, by the values of the column "category_id"; None where there are no such classes."""


@dataclass(frozen=True)
class IndexedBoxes:
    """The boxes of one large file; see `BoxSource`."""

    path: str
    index: str
    fingerprint: str
    filled: Filled
    matching: Matching

    @property
    def columns(self) -> dict[str, ColumnType]:
        """The types of what is carried through, by name."""
        return {**({} if self.filled.labels is None else {"label": "string"}), **self.filled.carried}

    def of(self, image: ImageRef) -> ImageBoxes | None:
        """What is marked in `image`; RA701, if it cannot be read."""
        connection = _connection(self.index, self.fingerprint)
        name = self.matching.renamed.get(image.image_id, image.image_id)
        found = connection.execute("SELECT key, height, width FROM images WHERE name = ?", (name,)).fetchone()
        if found is None:
            return None
        key, height, width = found
        faults = [reason for (reason,) in connection.execute("SELECT reason FROM faults WHERE image = ?", (key,))]
        if faults:
            more = f", and {len(faults) - 1} more" if faults[1:] else ""
            raise AnnotationError(f"RA701: expected boxes of {name} in {self.path} as numbers; {faults[0]}{more}.")
        query = "SELECT box_id, x1, y1, x2, y2, carried, mask FROM boxes WHERE image = ? ORDER BY rowid"
        rows = connection.execute(query, (key,)).fetchall()
        ids = tuple(row[0] for row in rows)
        if len(set(ids)) < len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise AnnotationError(f"RA701: expected an id for each box of {name} in {self.path}; {twice} comes twice.")
        numpy = needed("numpy")
        masks = tuple(None if row[6] is None else json.loads(row[6]) for row in rows)
        return ImageBoxes(
            numpy.array([row[1:5] for row in rows], dtype=numpy.float64).reshape(-1, 4),  # of None it makes NaN
            ids,
            self._columns_of([json.loads(row[5]) for row in rows]),
            None if height is None else (height, width),
            masks=masks if any(mask is not None for mask in masks) else None,
        )

    def unmatched(self, images: Iterable[str]) -> Iterator[str]:
        """The names of images that the file has and the collection does not."""
        taken = {self.matching.renamed.get(image, image) for image in images}
        connection = _connection(self.index, self.fingerprint)
        for (name,) in connection.execute("SELECT name FROM images ORDER BY name"):
            if name not in taken:
                yield name
        marked = "SELECT image FROM boxes UNION SELECT image FROM faults"
        query = f"SELECT image FROM ({marked}) WHERE image NOT IN (SELECT key FROM images) ORDER BY image"
        for (key,) in connection.execute(query):
            yield f"image_id {key}"

    def _columns_of(self, rows: list[list[Any]]) -> dict[str, tuple[Any, ...]]:
        stored = dict(zip(self.filled.carried, zip_longest(*rows), strict=False))  # rows end with the last value set
        columns = {
            name: tuple(as_type(value, kind) for value in stored.get(name, [None] * len(rows)))
            for name, kind in self.filled.carried.items()
        }
        if self.filled.labels is None:
            return columns
        return {"label": tuple(map(self.filled.labels.get, stored.get("category_id", [None] * len(rows)))), **columns}


def open_index(
    path: str,
    index: str,
    fill: Callable[[Tables], Filled],
    images: Sequence[str],
    how: str,
    with_masks: bool = False,
) -> IndexedBoxes:
    """The boxes of the file at `path`, from the index at `index`, which is filled first if it is not of this file.

    Args:
        fill: reads the file into the tables.
        images: the ids of the collection.
        how: all that decides what is read of the file but its content.
    """
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    fingerprint = hashlib.sha256(f"{content} {how} {with_masks} {_VERSION}".encode()).hexdigest()
    filled = _filled(index, fingerprint)
    if filled is None:
        filled = _build(path, index, fill, fingerprint)
    names = (name for (name,) in _connection(index, fingerprint).execute("SELECT name FROM images"))
    return IndexedBoxes(path, index, fingerprint, filled, match(names, images, path))


def _filled(index: str, fingerprint: str) -> Filled | None:
    """What the index holds, if it is there, whole, and of this file."""
    if not os.path.exists(index):
        return None
    connection = _connect(index)
    try:
        about = dict(connection.execute("SELECT name, value FROM about"))
    except sqlite3.DatabaseError:
        return None
    finally:
        connection.close()
    if about.get("fingerprint") != fingerprint:
        return None
    labels = json.loads(about["labels"])
    return Filled(json.loads(about["carried"]), None if labels is None else dict(labels))


def _build(path: str, index: str, fill: Callable[[Tables], Filled], fingerprint: str) -> Filled:
    place = Path(index)
    for left in place.parent.glob(f"{glob.escape(place.name)}.*.unfinished"):  # by a process that was killed
        left.unlink()
    unfinished = f"{index}.{os.getpid()}.unfinished"
    connection = sqlite3.connect(unfinished, isolation_level=None)
    try:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
            connection.execute(f"PRAGMA {setting}")
        connection.executescript(_TABLES)
        connection.execute("BEGIN")
        tables = Tables(connection)
        filled = fill(tables)
        tables.flush()
        labels = None if filled.labels is None else list(filled.labels.items())
        about = {"fingerprint": fingerprint, "carried": json.dumps(filled.carried), "labels": json.dumps(labels)}
        connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        _refuse_duplicates(connection, path)
        for statement in _KEYS:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.close()
        _move_into_place(unfinished, index)
        return filled
    finally:
        connection.close()
        Path(unfinished).unlink(missing_ok=True)


def _refuse_duplicates(connection: sqlite3.Connection, path: str) -> None:
    for column, what in (("key", "id"), ("name", "name")):
        query = f"SELECT {column}, COUNT(*) FROM images GROUP BY {column} HAVING COUNT(*) > 1 LIMIT 1"
        if twice := connection.execute(query).fetchone():
            raise AnnotationError(
                f"RA701: expected each image of {path} once; the {what} {twice[0]!r} is that of {twice[1]} images."
            )


def _move_into_place(unfinished: str, index: str) -> None:
    with open(unfinished, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, index)


def _connection(index: str, fingerprint: str) -> sqlite3.Connection:
    """To read with, this process's and this thread's own."""
    wanted = (os.getpid(), index, fingerprint)
    if getattr(_OPEN, "what", None) != wanted:
        _OPEN.connection, _OPEN.what = _connect(index), wanted
    connection: sqlite3.Connection = _OPEN.connection
    return connection


def _connect(index: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(index).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
