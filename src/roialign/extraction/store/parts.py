"""The parts of a store: each a Parquet file of rows and one of errors, that are there wholly or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roialign.extraction.packages import needed
from roialign.extraction.store import files
from roialign.extraction.store.rows import ErrorRow, RegionRows, RowSchema, errors_to_table

_UNMATCHED = "unmatched"
_FORMAT = "2.6"  # of Parquet: a file is the same whatever a later pyarrow would write by default


@dataclass(frozen=True)
class Parts:
    """The parts in a folder, of one extraction.

    A plain value: workers, of this machine or of others that see the folder, each write their parts with a copy.
    A part's file is the same, byte for byte, for the same rows, written with the same pyarrow.

    Args:
        folder: of the store.
        schema: of the rows.
        fingerprint: of the extraction, which each file carries.
        count: how many parts there are when all are there.
    """

    folder: Path
    schema: RowSchema
    fingerprint: str
    count: int

    def prepare(self, alone: bool) -> None:
        """Make the folders; remove what dead processes left half written, if nobody else can be writing."""
        for folder in (self.folder, self._row_files, self._error_files):
            folder.mkdir(parents=True, exist_ok=True)
            if alone:
                files.remove_unfinished(folder)

    def write(self, number: int, rows: RegionRows, errors: Sequence[ErrorRow] = ()) -> None:
        """Write one part; it is there once all of it is on the disk, and replaces one of the same number.

        Raises:
            StoreError: RA713, if the disk is full; RA714, for rows of another schema.
        """
        table = self.schema.to_table(rows, self.fingerprint)
        text = [name for name in self.schema.names if table.schema.field(name).type == "string"]
        self._write_errors(f"{number:08d}", errors)
        self._write(self.path(number), table, self.schema.rows_per_group, text)

    def write_unmatched(self, errors: Sequence[ErrorRow]) -> None:
        """Write what belongs to no part: images that the annotations name and the collection does not have."""
        self._write_errors(_UNMATCHED, errors)

    def path(self, number: int) -> Path:
        """The file of a part's rows."""
        return self._row_files / f"{number:08d}.parquet"

    def present(self) -> list[int]:
        """The numbers of the parts that are there, in order."""
        return sorted(int(path.stem) for path in self._row_files.glob("[0-9]*.parquet"))

    def missing(self) -> list[int]:
        """The numbers of the parts that are still to do, in order."""
        return sorted(set(range(self.count)) - set(self.present()))

    def error_paths(self, numbers: Sequence[int]) -> list[Path]:
        """The files of errors of these parts, and that of what belongs to no part."""
        names = [*(f"{number:08d}" for number in numbers), _UNMATCHED]
        return [path for name in names if (path := self._error_files / f"{name}.parquet").exists()]

    @property
    def _row_files(self) -> Path:
        return self.folder / "parts"

    @property
    def _error_files(self) -> Path:
        return self.folder / "errors"

    def _write_errors(self, name: str, errors: Sequence[ErrorRow]) -> None:
        table = errors_to_table(errors)
        self._write(self._error_files / f"{name}.parquet", table, 1 << 16, table.schema.names)

    def _write(self, path: Path, table: Any, group: int, text: Sequence[str]) -> None:
        """Columns of text have a dictionary, and their least and greatest value in each row group; others have none."""
        parquet = needed("pyarrow.parquet")
        options = {"version": _FORMAT, "compression": "zstd", "use_dictionary": text, "write_statistics": text}
        with files.room_in(self.folder, self._standing), files.replacing(path) as file:
            parquet.write_table(table, file, row_group_size=group, **options)

    def _standing(self) -> str:
        return f"{len(self.present())} of {self.count} parts are written."
