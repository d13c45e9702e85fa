"""Images within one file: the members of a tar, the rows of a Parquet file."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import Any

from roialign.backbones.pictures import SUFFIXES
from roialign.errors import CollectionError
from roialign.extraction.items import ImageRef
from roialign.extraction.packages import needed
from roialign.extraction.paths import file_ref, portable, suffix_of

_PATH_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path", "image_file", "img_path")


def of_tar(path: str, name: str) -> Iterator[ImageRef]:
    """The images in a tar, called `name`/member, with the places of their bytes.

    Raises:
        CollectionError: RA703, for a compressed or broken one.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            read: list[tarfile.TarInfo] = vars(tar)["members"]
            while (member := tar.next()) is not None:
                read.clear()  # it would hold them all
                inner = portable(member.name)
                hidden = any(part.startswith(".") for part in inner.split("/"))
                if member.isreg() and not member.issparse() and suffix_of(inner) in SUFFIXES and not hidden:
                    yield ImageRef(f"{name}/{inner}", path, (member.offset_data, member.size))
    except tarfile.TarError as error:
        with open(path, "rb") as file:
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
        fix = " It is compressed: unpack it once, for members are read by their place." if packed else ""
        raise CollectionError(f"RA703: expected {path} as a tar with images; {error}.{fix}") from error


def of_parquet(path: str, name: str, column: str | None) -> Iterator[ImageRef]:
    """The images of a Parquet file: files by their paths, relative to it, or the bytes in its rows.

    Args:
        name: what the file is called in the ids of rows that hold bytes.
        column: the one with paths (strings), bytes (binary) or both (structs {bytes, path}); None for the only one
            that can be it.

    Raises:
        CollectionError: RA703, for a broken file, and where no column or several can be it.
    """
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            column = column if column is not None else _column_of(path, file.schema_arrow)
            kind = _kind(file.schema_arrow, column)
            if kind == "none":
                has = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
                raise CollectionError(
                    f"RA703: expected column {column!r} of {path} with paths, bytes or structs {{bytes, path}}; it "
                    f"has {has}."
                )
            yield from _rows(file, path, name, column, kind)
    except pyarrow.ArrowInvalid as error:
        raise CollectionError(f"RA703: expected {path} as a Parquet file: {error}.") from error


def _rows(file: Any, path: str, name: str, column: str, kind: str) -> Iterator[ImageRef]:
    base, names = os.path.dirname(path), _names_beside(file.schema_arrow, column, kind)
    number = 0
    for group in range(file.num_row_groups):
        if names is None:
            count = file.metadata.row_group(group).num_rows
            texts: Iterator[str | None] = iter([None] * count)
        else:
            texts = _texts(file, group, names)
        stored = kind != "path" and not _has_no_bytes(file.metadata.row_group(group), column)
        for row, text in enumerate(texts):
            if stored:
                inner = "" if text is None else "/" + portable(text).lstrip("/.")
                yield ImageRef(f"{name}/{number:08d}{inner}", path, (group, row), column)
            elif text is not None:
                yield file_ref(text, base)
            else:
                raise CollectionError(f"RA703: expected a path in each row of {path}; row {number} has none.")
            number += 1


def _texts(file: Any, group: int, names: str) -> Iterator[str | None]:
    for batch in file.iter_batches(row_groups=[group], columns=[names], use_threads=False):
        values = batch.column(0)
        if "." in names and values.type.num_fields == 1:
            values = values.field(0)
        yield from values.to_pylist()


def _kind(schema: Any, column: str) -> str:
    """What a column holds: "bytes", "struct", "path" or "none"."""
    types = needed("pyarrow").types
    index = schema.get_field_index(column)
    if index < 0:
        return "none"
    found = schema.field(index).type
    if types.is_struct(found) and {"bytes", "path"} <= {field.name for field in found}:
        return "struct"
    if types.is_binary(found) or types.is_large_binary(found):
        return "bytes"
    return "path" if types.is_string(found) or types.is_large_string(found) else "none"


def _column_of(path: str, schema: Any) -> str:
    names: list[str] = schema.names
    kinds = {name: _kind(schema, name) for name in names}
    held = [name for name, kind in kinds.items() if kind in ("struct", "bytes")]
    found = held or [name for name, kind in kinds.items() if kind == "path" and name.lower() in _PATH_COLUMNS]
    if len(found) == 1:
        return found[0]
    several = f"several can be it: {', '.join(found)}" if found else f"its columns are {', '.join(names)}"
    raise CollectionError(
        f"RA703: expected a column with images in {path}: bytes, structs {{bytes, path}}, or paths in a column called "
        f"{', '.join(_PATH_COLUMNS)}; {several}. Name it: column=..."
    )


def _names_beside(schema: Any, column: str, kind: str) -> str | None:
    """The column, or field of it, with the names of the images."""
    if kind == "path":
        return column
    if kind == "struct":
        return f"{column}.path"
    named = [one for one in schema.names if one.lower() in _PATH_COLUMNS and _kind(schema, one) == "path"]
    return named[0] if named else None


def _has_no_bytes(group: Any, column: str) -> bool:
    """Whether a row group of structs holds paths only, as its statistics say."""
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema == f"{column}.bytes":
            return chunk.statistics is not None and chunk.statistics.null_count == group.num_rows
    return False
