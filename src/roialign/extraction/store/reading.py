"""A store opened to be read: nothing is in memory but what is asked for."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from roialign.errors import NoRegionError, StoreError
from roialign.extraction.packages import needed
from roialign.extraction.store.manifest import Manifest, MapGrid
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.rows import METADATA_KEY, ErrorRow, RegionRows

if TYPE_CHECKING:
    from roialign.extraction.store.datasets import RegionDataset, RegionStream

_MOST_NAMED = 10  # boxes in a message


@dataclass(frozen=True, eq=False)
class Region:
    """One region: its names, its box x1, y1, x2, y2 [4] in pixels of the upright image, and its feature."""

    image_id: str
    box_id: str
    box_index: int
    box_xyxy: Tensor
    image_size_hw: tuple[int, int]
    level: str
    coverage: float
    padding_distance: float
    feature: Tensor
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """A row group of a part: what is read at once.

    `start` is the number, in the store, of the first of its `count` rows, `images` the least and the greatest id.
    """

    path: Path
    index: int
    start: int
    count: int
    images: tuple[str, str]


def open(folder: str | os.PathLike[str]) -> Regions:  # noqa: A001  as of other libraries: roialign.extraction.open
    """The regions that an extraction wrote to `folder`.

    Only the manifest is read, and later what is asked for.

    Args:
        folder: of the store.

    Raises:
        StoreError: RA714, if `folder` is no store, or its manifest cannot be read.
    """
    place = Path(folder)
    manifest = Manifest.read(place)
    if manifest is None:
        raise StoreError(
            f"RA714: expected a folder that `roialign extract` wrote; got {place}, which has no manifest.json. Pass "
            "what was its --out."
        )
    return Regions(place, manifest)


class Regions:
    """The regions of a store, in the order of the images and of the boxes in each.

    Convention: boxes are x1, y1, x2, y2 in pixels of the upright image; features are torch tensors of the shape and
    the type that they are stored in.

    A store whose extraction is still going on, or was stopped, has the parts that were there when it was opened:
    `finished` says whether those are all. It can be pickled, and goes to the workers of a DataLoader.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._parts = Parts(folder, manifest.schema, manifest.fingerprint, manifest.part_count)
        self._present = self._parts.present()
        self._kept: tuple[Any, Any] = (None, None)

    @property
    def finished(self) -> bool:
        """Whether all parts are there."""
        return len(self._present) == self.manifest.part_count

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return self.manifest.schema.names

    @property
    def grids(self) -> Mapping[str, MapGrid]:
        """Where the cells of the maps lie that the regions were pooled from, by level."""
        return self.manifest.grids

    @property
    def arrow(self) -> Any:
        """All rows as a `pyarrow.dataset.Dataset`, which filters, counts, and reads some of the columns."""
        paths = [str(self._parts.path(number)) for number in self._present]
        schema = self.manifest.schema.to_arrow(self.manifest.fingerprint)
        return needed("pyarrow.dataset").dataset(paths, schema=schema, format="parquet")

    def __len__(self) -> int:
        return self.groups[-1].start + self.groups[-1].count if self.groups else 0

    def __getitem__(self, index: int) -> Region:
        group, row = self.place_of(index)
        return self._region(self.read(group).slice(row, 1))

    def __iter__(self) -> Iterator[Region]:
        return (self[index] for index in range(len(self)))

    def of_image(self, image_id: str) -> RegionRows:
        """All regions of an image: none, if it had no boxes, failed, or is not of the collection."""
        return self.manifest.schema.to_rows(self._table_of(image_id))

    def row(self, image_id: str, box_id: str) -> Region:
        """One region by its names.

        Raises:
            NoRegionError: RA715, if there is none, with the boxes that the image has.
        """
        table = self._table_of(image_id)
        box_ids = table.column("box_id").to_pylist()
        if box_id not in box_ids:
            more = ", ..." if len(box_ids) > _MOST_NAMED else ""
            known = f"boxes of it are {', '.join(box_ids[:_MOST_NAMED])}{more}" if box_ids else "no box of it has a row"
            raise NoRegionError(
                f"RA715: expected the ids of an image and of one of its boxes; got {image_id!r} and {box_id!r}; "
                f"{known}. errors() says which failed, and why."
            )
        return self._region(table.slice(box_ids.index(box_id), 1))

    def numbers_of(self, image_id: str) -> list[int]:
        """The numbers of an image's regions: what `regions[number]` takes."""
        return [group.start + row for group, rows in self._rows_of(image_id) for row in rows]

    def batches(self, size: int = 1024) -> Iterator[RegionRows]:
        """All regions in order, at most `size` at a time, those of a batch from one part."""
        pa = needed("pyarrow")
        for number in self._present:
            with _opened(self._parts.path(number)) as file:
                for batch in file.iter_batches(size, use_threads=False):
                    yield self.manifest.schema.to_rows(pa.Table.from_batches([batch]))

    def as_dataset(self, columns: Sequence[str] | None = None) -> RegionDataset:
        """A `torch.utils.data.Dataset` of all regions: each a dict of these columns, or of all.

        A row group is read at a time, half a mebibyte of features, and kept until another is needed; a DataLoader's
        batch is read in the order of the store, each row group once.
        """
        from roialign.extraction.store.datasets import RegionDataset

        return RegionDataset(self, self._known(columns))

    def as_stream(self, columns: Sequence[str] | None = None) -> RegionStream:
        """A `torch.utils.data.IterableDataset` of all regions, in order: each a dict of these columns, or of all.

        A DataLoader's workers share the row groups among them.
        """
        from roialign.extraction.store.datasets import RegionStream

        return RegionStream(self, self._known(columns))

    def errors(self) -> Iterator[ErrorRow]:
        """Each box that has no row, and each image none of whose boxes has one, with the reason."""
        for path in self._parts.error_paths(self._present):
            with _opened(path) as file:
                for batch in file.iter_batches(use_threads=False):
                    yield from (ErrorRow(**one) for one in batch.to_pylist())

    @cached_property
    def groups(self) -> list[Group]:
        """The row groups of all parts, in order; of each file only the end is read."""
        groups: list[Group] = []
        start = 0
        for number in self._present:
            path = self._parts.path(number)
            with _opened(path) as file:
                metadata = file.metadata
            about = json.loads((metadata.metadata or {}).get(METADATA_KEY, b"{}"))
            if about.get("fingerprint") != self.manifest.fingerprint:
                raise StoreError(
                    f"RA714: expected {path} to be of the extraction {self.manifest.fingerprint[:12]}; got one of "
                    f"{str(about.get('fingerprint'))[:12]}. Delete it and run the extraction again, which makes it "
                    "anew."
                )
            for index in range(metadata.num_row_groups):
                rows = metadata.row_group(index)
                if rows.num_rows:
                    ids = rows.column(0).statistics
                    groups.append(Group(path, index, start, rows.num_rows, (ids.min, ids.max)))
                    start += rows.num_rows
        return groups

    def place_of(self, index: int) -> tuple[Group, int]:
        """The row group that has the region of this number, and its row there.

        Raises:
            NoRegionError: RA715, if there are fewer.
        """
        count = len(self)
        if not -count <= index < count:
            raise NoRegionError(f"RA715: expected the number of one of {count} regions, counted from 0; got {index}.")
        group = self.groups[bisect_right(self._starts, index % count) - 1]
        return group, index % count - group.start

    def read(self, group: Group, columns: Sequence[str] | None = None) -> Any:
        """A row group as an Arrow table; the last one is kept."""
        key = (group, columns if columns is None else tuple(columns))
        if self._kept[0] != key:
            with _opened(group.path) as file:
                self._kept = (key, file.read_row_group(group.index, columns=columns, use_threads=False))
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": (None, None)}

    def __repr__(self) -> str:
        parts = f"{len(self._present)} of {self.manifest.part_count} parts"
        return f"Regions({str(self.folder)!r}, {len(self)} regions, {parts})"

    @cached_property
    def _starts(self) -> list[int]:
        return [group.start for group in self.groups]

    def _rows_of(self, image_id: str) -> Iterator[tuple[Group, list[int]]]:
        """The row groups that have rows of an image, and which."""
        for group in self.groups:
            if group.images[0] <= image_id <= group.images[1]:
                ids = self.read(group, ["image_id"]).column(0).to_pylist()
                if rows := [row for row, one in enumerate(ids) if one == image_id]:
                    yield group, rows

    def _table_of(self, image_id: str) -> Any:
        tables = [self.read(group).take(rows) for group, rows in self._rows_of(image_id)]
        empty = self.manifest.schema.to_arrow(self.manifest.fingerprint).empty_table()
        return needed("pyarrow").concat_tables([empty, *tables])

    def _region(self, table: Any) -> Region:
        rows = self.manifest.schema.to_rows(table)
        height, width = rows.image_sizes_hw[0].tolist()
        return Region(
            rows.image_ids[0],
            rows.box_ids[0],
            int(rows.box_indices[0]),
            rows.boxes_xyxy[0],
            (height, width),
            rows.levels[0],
            float(rows.coverage[0]),
            float(rows.padding_distance[0]),
            rows.features[0],
            {name: values[0] for name, values in rows.columns.items()},
        )

    def _known(self, columns: Sequence[str] | None) -> list[str]:
        unknown = [name for name in columns or () if name not in self.columns]
        if unknown:
            raise NoRegionError(
                f"RA715: expected columns of the store, of {', '.join(self.columns)}; got {', '.join(unknown)}."
            )
        return list(self.columns if columns is None else columns)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file, mapped into memory.

    Raises:
        StoreError: RA714, if it is damaged or gone.
    """
    try:
        with needed("pyarrow.parquet").ParquetFile(path, memory_map=True) as file:
            yield file
    except (OSError, needed("pyarrow").ArrowInvalid) as error:
        raise StoreError(
            f"RA714: expected {path} as it was written; got {error}. Delete it and run the extraction again, which "
            "makes it anew."
        ) from error
