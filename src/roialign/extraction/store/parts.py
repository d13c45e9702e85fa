"""The parts of a store: each a Parquet file of rows and one of errors, that are there wholly or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from roialign.extraction.store import files
from roialign.extraction.store.groups import GroupWriter, group_writer
from roialign.extraction.store.rows import ErrorRow, Made, RowSchema, errors_to_table

_UNMATCHED = "unmatched"
_ERRORS_PER_GROUP = 1 << 16


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

    def write(self, number: int, made: Iterable[Made]) -> None:
        """Write one part; it is there once all of it is on the disk, and replaces one of the same number.

        Rows are written as they come, a row group at a time: no more of them is in memory than a group and what came
        last. The file is the same however many rows come at a time.

        Raises:
            StoreError: RA713, if the disk is full; RA714, for rows of another schema.
        """
        schema, waiting = self.schema.to_arrow(self.fingerprint), list[ErrorRow]()
        with (
            files.room_in(self.folder, self._standing),
            group_writer(self.path(number), schema, self.schema.rows_per_group) as rows,
            self._error_writer(f"{number:08d}") as errors,  # ends first: errors are there before the rows
        ):
            for one in made:
                if isinstance(one, ErrorRow):
                    waiting.append(one)
                else:
                    rows.add(self.schema.to_table(one, self.fingerprint))
                if len(waiting) == _ERRORS_PER_GROUP:
                    errors.add(errors_to_table(waiting))
                    waiting.clear()
            errors.add(errors_to_table(waiting))

    def write_unmatched(self, errors: Sequence[ErrorRow]) -> None:
        """Write what belongs to no part: images that the annotations name and the collection does not have."""
        with files.room_in(self.folder, self._standing), self._error_writer(_UNMATCHED) as writer:
            writer.add(errors_to_table(errors))

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

    def _error_writer(self, name: str) -> AbstractContextManager[GroupWriter]:
        return group_writer(self._error_files / f"{name}.parquet", errors_to_table([]).schema, _ERRORS_PER_GROUP)

    def _standing(self) -> str:
        return f"{len(self.present())} of {self.count} parts are written."
