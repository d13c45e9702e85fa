"""Parquet files written a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roialign.extraction.packages import needed
from roialign.extraction.store import files

_FORMAT = "2.6"  # of Parquet: a file is the same whatever a later pyarrow would write by default


class GroupWriter:
    """Writes rows in groups of one size, all but the last, however many come at a time; made by `group_writer`."""

    def __init__(self, writer: Any, schema: Any, size: int) -> None:
        self._writer, self._size = writer, size
        self._left, self._begun = schema.empty_table(), False

    def add(self, table: Any) -> None:
        """Write these rows with those that are left, but for what does not fill a group."""
        pa = needed("pyarrow")
        table = pa.concat_tables([self._left, table])
        full = table.num_rows // self._size * self._size
        if full:
            table = table.combine_chunks()
            self._write(table.slice(0, full))
            table = table.take(
                pa.array(range(full, table.num_rows), pa.int64())
            )  # a copy, which does not keep all of it
        self._left = table

    def write_rest(self) -> None:
        """Write what is left as the last group; a file without rows has one that is empty."""
        if self._left.num_rows or not self._begun:
            self._write(self._left.combine_chunks())

    def _write(self, table: Any) -> None:
        self._writer.write_table(table, row_group_size=self._size)
        self._begun = True


@contextmanager
def group_writer(path: Path, schema: Any, size: int) -> Iterator[GroupWriter]:
    """A writer of a file that is at `path` when the block has ended: wholly, or not at all.

    Columns of text have a dictionary, and their least and greatest value in each row group; others have none.
    """
    parquet = needed("pyarrow.parquet")
    text = [field.name for field in schema if field.type == "string"]
    options = {"version": _FORMAT, "compression": "zstd", "use_dictionary": text, "write_statistics": text}
    with files.replacing(path) as file, parquet.ParquetWriter(file, schema, **options) as writer:
        groups = GroupWriter(writer, schema, size)
        yield groups
        groups.write_rest()
