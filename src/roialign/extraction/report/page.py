"""The page: where its numbers come from, and how they are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roialign.extraction.items import ImageRef
from roialign.extraction.report.thumbnails import Thumbnail, thumbnails
from roialign.extraction.store.reading import Region, Regions
from roialign.extraction.store.search import nearest
from roialign.geometry.html import printable, shortened
from roialign.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_SHEET, _QUERIES, _NEIGHBOURS = 32, 6, 6
_BINS = 10  # of the histogram of coverage
_EXAMPLES = 3  # of each kind of error
_LONGEST = 200  # signs of a reason
_BATCH = 1 << 16  # rows of the coverage that are read at once


@dataclass(frozen=True)
class _Card:
    """A region as the page shows it."""

    region: Region
    thumbnail: Thumbnail | None
    similarity: float | None = None

    @property
    def label(self) -> str:
        value = self.region.columns.get("label")
        return "" if value is None else str(value)


@dataclass(frozen=True)
class _Bin:
    """A bar of the histogram."""

    name: str
    count: int
    share: float  # of the longest bar


@dataclass(frozen=True)
class _Errors:
    """The errors of one code."""

    code: str
    count: int
    examples: Sequence[str]


def save_report(regions: Regions, images: Iterable[ImageRef], path: str | PathLike[str]) -> None:
    """Write a page about the regions of a store: a contact sheet, coverage, errors, and neighbours of a few regions.

    The page needs nothing but itself. Regions are taken at even distances, so the same store gives the same page.

    Args:
        regions: what `roialign.extraction.open` returned.
        images: the collection that they are of, as `roialign.extraction.images.list_images` gives it; of images that
            cannot be read any more there are no pictures.
        path: of the page, HTML.

    Raises:
        StoreError: RA714, if a part is damaged.
    """
    sheet = [regions[index] for index in _spread(len(regions), _SHEET)]
    queries = [regions[index] for index in _spread(len(regions), _QUERIES)]
    found = [nearest(regions, (one.image_id, one.box_id), _NEIGHBOURS) for one in queries]
    shown = [*sheet, *queries, *(near.region for some in found for near in some)]
    pictures = thumbnails(images, ((one.image_id, _corners(one)) for one in shown))

    def card(region: Region, similarity: float | None = None) -> _Card:
        return _Card(region, pictures.get((region.image_id, _corners(region))), similarity)

    content = (
        _environment()
        .get_template("page.html")
        .render(
            name=regions.folder.resolve().name,
            manifest=regions.manifest,
            finished=regions.finished,
            count=len(regions),
            shape=" x ".join(map(str, regions.manifest.schema.feature_shape)),
            sheet=[card(region) for region in sheet],
            searches=[
                (card(query), [card(near.region, near.similarity) for near in some])
                for query, some in zip(queries, found, strict=True)
            ],
            coverage=_histogram(regions),
            errors=_errors(regions),
            version=__version__,
        )
    )
    Path(path).write_text(content, encoding="utf-8", errors="xmlcharrefreplace")


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` numbers, at even distances."""
    taken = min(count, most)
    return [(2 * place + 1) * count // (2 * taken) for place in range(taken)]


def _corners(region: Region) -> tuple[float, float, float, float]:
    left, top, right, bottom = region.box_xyxy.tolist()
    return left, top, right, bottom


def _histogram(regions: Regions) -> list[_Bin]:
    counts = [0] * _BINS
    for batch in regions.arrow.to_batches(columns=["coverage"], batch_size=_BATCH):
        for value, count in Counter(batch.column(0).to_pylist()).items():
            counts[min(int(value * _BINS), _BINS - 1)] += count
    longest = max([*counts, 1])
    names = [f"{index / _BINS:.1f} to {(index + 1) / _BINS:.1f}" for index in range(_BINS)]
    return [_Bin(name, count, count / longest) for name, count in zip(names, counts, strict=True)]


def _errors(regions: Regions) -> list[_Errors]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for error in regions.errors():
        counts[error.code] += 1
        some = examples.setdefault(error.code, [])
        if len(some) < _EXAMPLES:
            box = "" if error.box_id is None else f", box {error.box_id}"
            some.append(shortened(f"{error.image_id}{box}: {error.reason}", _LONGEST))
    return [_Errors(code, count, examples[code]) for code, count in counts.most_common()]


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Any] = {"printable": printable, "counted": "{:,}".format}
    made.filters.update(filters)
    return made
