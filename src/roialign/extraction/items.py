"""The plain values that go between the modules of an extraction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy

ColumnType = Literal["string", "int64", "float64", "bool"]

ROW_COLUMNS = (
    *("image_id", "box_id", "box_index", "x1", "y1", "x2", "y2", "image_height", "image_width"),
    *("level", "coverage", "padding_distance", "feature"),
)
"""The columns that each row has of itself; no column of the annotations is carried through under such a name."""

MASK_SHARE = "mask_share"
"""The further column of rows that were pooled under outlines: how much of the box is within its outline."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a collection: what it is called and where its bytes are.

    A plain value: it goes to other processes and is compared and hashed by what it says.

    Args:
        image_id: unique in the collection and the same on every machine: the path relative to the folder, with "/";
            "shard.tar/member.jpg" in a tar.
        location: the path of the image's file, of the tar or of the Parquet file.
        member: (offset, length) in bytes in a tar; (row group, row in it) in a Parquet file; None for a file.
        column: the column of the Parquet file that holds the bytes, or structs {bytes, path}; else None.

    Example:
        >>> ImageRef("street/0001.jpg", "/data/photos/street/0001.jpg").image_id
        'street/0001.jpg'
    """

    image_id: str
    location: str
    member: tuple[int, int] | None = None
    column: str | None = None

    def read_bytes(self) -> bytes:
        """The image's file, as it is stored: what `PIL.Image.open(io.BytesIO(...))` takes.

        Of a tar only the member's bytes are read. Of a Parquet file a row group is read at a time, and kept until
        another one is asked for.

        Raises:
            OSError: if the file is gone, cannot be read, or ends before the member does.
        """
        if self.member is None:
            return Path(self.location).read_bytes()
        if self.column is not None:
            return _cell(self.location, *self.member, self.column)
        offset, length = self.member
        with open(self.location, "rb") as tar:
            tar.seek(offset)
            content = tar.read(length)
        if len(content) < length:
            raise OSError(f"{self.location} ends {length - len(content)} bytes before its member {self.image_id} does")
        return content


@dataclass(frozen=True, slots=True, eq=False)
class ImageBoxes:
    """What is marked in one image.

    Convention: boxes are x1, y1, x2, y2, x first, in pixels of the picture that was annotated, whole numbers being
    the edges of pixels. They are passed on as they are: NaN, inverted, empty and outside ones are for their reader to
    refuse.

    Args:
        boxes_xyxy: [K, 4] float64.
        box_ids: K of them, unique within the image: COCO's annotation ids, else the numbers of the rows from 0.
        columns: what is carried through, by name: K values each, None where a box has none.
        size_hw: height and width of the annotated picture as its annotations state them, or None.
        normalized: whether the boxes are fractions of the picture's width and height, as YOLO's are; its masks too.
        masks: K of them, COCO's run lengths or polygons [[x, y, x, y, ...], ...], None for a box without; or None
            where there are none at all. See `roialign.extraction.outlines`.
    """

    boxes_xyxy: numpy.ndarray[Any, Any]
    box_ids: tuple[str, ...]
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    size_hw: tuple[int, int] | None = None
    normalized: bool = False
    masks: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.box_ids)


class BoxSource(Protocol):
    """The boxes of a collection. It can be pickled: workers get a copy of it."""

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """The types of what is carried through, by name, the same for all images."""

    @property
    def fingerprint(self) -> str:
        """A hash of the annotations' content and of how it is read."""

    def of(self, image: ImageRef) -> ImageBoxes | None:
        """What is marked in `image`; None, if the annotations do not know it.

        Raises:
            AnnotationError: RA701, if what they say of this image cannot be read.
        """

    def unmatched(self, images: Iterable[str]) -> Iterator[str]:
        """The names of images that the annotations have and the collection of the ids `images` does not."""


@lru_cache(maxsize=1)
def _row_group(path: str, changed_ns: int, group: int, column: str) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=True) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(0)


def _cell(path: str, group: int, row: int, column: str) -> bytes:
    try:
        cell: Any = _row_group(path, Path(path).stat().st_mtime_ns, group, column)[row].as_py()
    except (ValueError, IndexError, KeyError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise OSError(f"row {row} of row group {group}, column {column}, of {path} cannot be read: {error}") from error
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise OSError(f"row {row} of row group {group} of {path} has no bytes in its column {column}")
    return content
