"""How features are best stored, and what it takes to read and search them. Run by `make bench-store`.

Writes benchmarks/results/store.md and .csv. `--rows N` is a trial with N rows, and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
import usearch.index
from torch import Tensor, nn

from roialign.extraction.store import search
from roialign.extraction.store.manifest import Manifest, MapGrid, weights_sha256
from roialign.extraction.store.reading import Regions
from roialign.extraction.store.reading import open as open_store
from roialign.extraction.store.rows import RegionRows, RowSchema
from roialign.extraction.store.writing import writing

from .environment import Neighbours, environment
from .report import table
from .results import RESULTS, ColumnRow, as_csv, write_all

ROWS, CHANNELS, BOXES = 20_000, 512, 10
SEARCHED, SEARCHED_CHANNELS, QUERIES, K = 20_000, 64, 100, 10
_HEAD = """\
# Stores of region features

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- {rows} rows of {channels} numbers, in row groups of half a mebibyte of them, made up: combinations of 32 numbers and
  noise, about half of them cut off at zero, as a ReLU does
- Machine: {cpu}, {machine}; {threads} thread; other processes kept {cpus_used_by_others:.1f} CPUs busy
- Versions: roialign {roialign} at commit {commit}, torch {torch}, pyarrow {pyarrow}, pandas {pandas}, polars {polars},
  duckdb {duckdb}, usearch {usearch}
- Day: {date}

## The type of the column

Processor seconds to write all rows and to read them again, once each, into each library's own columns; *no* where it
fails. *One row*: a row group read for it, in milliseconds, the median of {repeats}.

{kinds}

A store has `fixed_size_list` with zstd, and says that none of the numbers is null: all four libraries read numbers from
it. Binary takes less time, but is bytes to all of them. DuckDB cannot read float16 in split streams.

## A store

Of the same rows in float16, ten to an image; processor time, so that waiting for the disk is left out.

{store}

## The same rows in Lance

As columns of pyarrow, with the defaults of {lance}; the first figure of MB is that of the store.

{in_lance}

## Searching

{searched} rows, {queries} of them as queries; *recall*: the share of the {k} nearest, by exact cosine, that the index
names among its candidates. *Spread evenly* is the worst there is: {channels_searched} independent numbers, of which
none says anything of another.

{recall}
"""


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of one call; NaN if it fails."""
    begin = time.process_time()
    try:
        call()
    except (duckdb.Error, pa.ArrowException, pl.exceptions.PolarsError):
        return float("nan")
    return time.process_time() - begin


def features(rows: int) -> Tensor:
    """[rows, CHANNELS], about half of them 0: what is left above 0 of combinations of 32 numbers, and of noise."""
    return (torch.randn(rows, 32) @ torch.randn(32, CHANNELS) + 2 * torch.randn(rows, CHANNELS)).relu() / 8


def column_of(values: Any, kind: str) -> Any:
    """Values [K, C] as an Arrow column."""
    count, size = values.shape
    flat = pa.array(values.reshape(-1))
    number = pa.field("element", flat.type, nullable=False)
    if kind.startswith("fixed"):
        return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(number, size))
    if kind.startswith("list"):
        ends = pa.array(np.arange(0, count * size + 1, size, dtype=np.int32))
        return pa.ListArray.from_arrays(ends, flat, type=pa.list_(number))
    width = size * values.itemsize
    ends = np.arange(0, count * width + 1, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(values)])


def kinds_of(values: Tensor, folder: Path, repeats: int) -> Iterator[ColumnRow]:
    """Every type, column and compression."""
    path, connection = folder / "x.parquet", duckdb.connect()
    connection.execute("set threads to 1")
    for dtype in ("float16", "float32"):
        numbers = values.numpy().astype(dtype)
        group = RowSchema((CHANNELS,), dtype).rows_per_group
        for column in ("list", "fixed_size_list", "fixed_size_list, split", "binary"):
            data = column_of(numbers, column)
            rows = pa.table([data], schema=pa.schema([pa.field("feature", data.type, nullable=False)]))
            split = {"feature.list.element": "BYTE_STREAM_SPLIT"} if "split" in column else None
            for compression in ("none", "lz4", "zstd"):
                if compression != "zstd" and (split or (compression == "lz4" and not column.startswith("fixed"))):
                    continue
                options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "column_encoding": split}
                written = seconds(
                    lambda rows=rows, group=group, compression=compression, options=options: pq.write_table(
                        rows, path, compression=compression, row_group_size=group, **options
                    )
                )
                once = [
                    seconds(lambda: pq.ParquetFile(path).read_row_group(3, use_threads=False)) for _ in range(repeats)
                ]
                yield ColumnRow(
                    dtype,
                    column,
                    compression,
                    path.stat().st_size / 1e6,
                    written,
                    1000 * statistics.median(once),
                    seconds(lambda: pq.read_table(path, use_threads=False)),
                    seconds(lambda: pd.read_parquet(path)),
                    seconds(lambda: pl.read_parquet(path)),
                    seconds(lambda: connection.sql(f"select feature from '{path}'").to_arrow_table()),
                )


def store_of(values: Tensor, folder: Path) -> tuple[Regions, float]:
    """A store of these features in float16, and the seconds that it took to write."""
    part = 2560 // BOXES
    schema = RowSchema((values.shape[1],), "float16", {"label": "string"})
    images = -(-len(values) // BOXES)
    grids = {"0": MapGrid((16.0, 16.0), (8.0, 8.0))}
    manifest = Manifest(schema, {}, grids, {}, {}, "", "", image_count=images, images_per_part=part)
    begin = time.process_time()
    with writing(folder, manifest) as parts:
        for number in parts.missing():
            some = values[number * part * BOXES : (number + 1) * part * BOXES].half()
            count, first = len(some), number * part
            rows = RegionRows(
                [f"{first + row // BOXES:08d}.jpg" for row in range(count)],
                [str(row % BOXES) for row in range(count)],
                torch.arange(count) % BOXES,
                torch.rand(count, 4),
                torch.full((count, 2), 640),
                ["0"] * count,
                torch.ones(count),
                torch.full((count,), torch.inf),
                some,
                {"label": ["thing"] * count},
            )
            parts.write(number, [rows])
    return open_store(folder), time.process_time() - begin


def store_lines(regions: Regions, written: float) -> Iterator[tuple[str, str]]:
    """What there is to do with a store, and what it takes."""
    parts = regions.manifest.part_count
    yield f"write {len(regions)} rows in {parts} parts, each synced", f"{written:.1f} s"
    yield (
        f"open, and read the ends of {parts} files",
        f"{1000 * seconds(lambda: len(open_store(regions.folder))):.0f} ms",
    )
    yield "all rows in batches of 1024", f"{seconds(lambda: list(map(len, regions.batches()))):.1f} s"
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(regions), generator=generator)[:1000].tolist()
    dataset = regions.as_dataset(["feature", "label"])
    alone = [seconds(partial(dataset.__getitem__, index)) for index in order[:100]]
    yield "a row at random", f"{1000 * statistics.median(alone):.1f} ms"
    some = seconds(lambda: [dataset.__getitems__(order[first : first + 250]) for first in range(0, 1000, 250)])
    yield "a row at random, of a batch of 250", f"{some:.2f} ms"
    images = [seconds(partial(regions.of_image, f"{index // BOXES:08d}.jpg")) for index in order[:50]]
    yield "an image", f"{1000 * statistics.median(images):.1f} ms"
    query = regions[5].feature
    yield f"the {K} nearest, compared with all", f"{seconds(lambda: search.nearest(regions, query, K)):.1f} s"
    model = nn.Sequential(*(nn.Conv2d(512, 512, 3) for _ in range(11)))  # 26 million, as a ResNet-50 has
    yield "the SHA-256 of 26 million weights", f"{seconds(lambda: weights_sha256(model)):.2f} s"


def lance_lines(regions: Regions, folder: Path) -> Iterator[tuple[str, str]]:
    """The same rows in Lance."""
    rows = pa.dataset.dataset(regions.folder / "parts").to_table()
    size_mb = sum(path.stat().st_size for path in (regions.folder / "parts").iterdir()) / 1e6
    written = seconds(lambda: lance.write_dataset(rows, folder))
    lance_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    dataset = lance.dataset(folder)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(regions), generator=generator)[:1000].tolist()
    columns = ["feature", "label"]
    alone = [seconds(partial(dataset.take, [index], columns)) for index in order[:100]]
    some = seconds(lambda: [dataset.take(order[first : first + 250], columns) for first in range(0, 1000, 250)])
    yield "MB", f"{size_mb:.1f}; {lance_mb:.1f}"
    yield "written", f"{written:.1f} s"
    yield "all rows in batches of 1024", f"{seconds(lambda: list(dataset.to_batches(batch_size=1024))):.1f} s"
    yield "a row at random", f"{1000 * statistics.median(alone):.1f} ms"
    yield "a row at random, of a batch of 250", f"{some:.2f} ms"


def recalls(values: Tensor) -> Iterator[list[str]]:
    """Of regions that are alike in groups, of those of the store, and of what is spread evenly."""
    channels = SEARCHED_CHANNELS
    grouped = torch.randn(1000, channels)[torch.randint(1000, (SEARCHED,))] + 0.7 * torch.randn(SEARCHED, channels)
    kinds = {
        f"in 1000 groups, {channels} numbers": grouped,
        f"of the store, the first {channels} numbers": values[:SEARCHED, :channels],
        f"spread evenly, {channels} numbers": torch.randn(SEARCHED, channels),
    }
    for name, some in kinds.items():
        units = nn.functional.normalize(some, dim=1)
        index = usearch.index.Index(ndim=channels, metric="cos", dtype="f16")
        numbers = units.half().numpy()
        built = seconds(lambda index=index, numbers=numbers: index.add(np.arange(len(numbers)), numbers, threads=1))
        index.expansion_search = search.EXPANSION
        expected = (units[:QUERIES] @ units.T).topk(K).indices.tolist()
        begin = time.process_time()
        found = [index.search(one, K + search.SPARE, threads=1).keys.tolist() for one in numbers[:QUERIES]]
        taken = (time.process_time() - begin) / QUERIES
        hits = [len(set(one) & set(some)) / K for one, some in zip(expected, found, strict=True)]
        yield [name, f"{len(units) / built:.0f}", f"{1000 * taken:.1f}", f"{statistics.mean(hits):.3f}"]


def kinds_table(kinds: list[ColumnRow]) -> str:
    names = ("write_s", "pyarrow_s", "pandas_s", "polars_s", "duckdb_s")
    columns = ["type", "column", "compression", "MB", "one row", *(name[:-2] for name in names)]

    def shown(value: float) -> str:
        return "no" if value != value else f"{value:.2f}"

    lines = [
        [
            *(one.dtype, one.column, one.compression, f"{one.size_mb:.0f}", f"{one.one_row_ms:.1f}"),
            *(shown(getattr(one, name)) for name in names),
        ]
        for one in kinds
    ]
    return table(columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="of the table; nothing is written")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    begin, neighbours, repeats = time.monotonic(), Neighbours(), 7
    values = features(options.rows or ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kinds = list(kinds_of(values, folder, repeats))
        print(f"[{time.monotonic() - begin:4.0f} s] columns", flush=True)
        regions, written = store_of(values, folder / "store")
        store = table(["", "takes"], [list(line) for line in store_lines(regions, written)])
        in_lance = table(["", "takes"], [list(line) for line in lance_lines(regions, folder / "lance")])
        print(f"[{time.monotonic() - begin:4.0f} s] a store", flush=True)
    recall = table(["rows", "added in a second", "a query, ms", f"recall@{K}"], list(recalls(values)))
    tables = {"kinds": kinds_table(kinds), "store": store, "in_lance": in_lance, "recall": recall}
    if options.rows:
        print(*tables.values(), sep="\n\n")
        return
    machine = environment()
    facts: dict[str, Any] = {
        **machine,
        **tables,
        **{name: version(name) for name in ("pyarrow", "pandas", "polars", "duckdb", "usearch")},
        "lance": f"pylance {version('pylance')}",
        "command": "make bench-store",
        "minutes": (time.monotonic() - begin) / 60,
        "rows": f"{ROWS:,}",
        "channels": CHANNELS,
        "channels_searched": SEARCHED_CHANNELS,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "searched": f"{SEARCHED:,}",
        "queries": QUERIES,
        "k": K,
        "cpus_used_by_others": neighbours.cpus(),
    }
    contents = {
        "store.md": _HEAD.format(**facts),
        "store.csv": as_csv(kinds, machine),
    }
    write_all(RESULTS, {name: text.encode() for name, text in contents.items()})
    print(f"written to {RESULTS}: {', '.join(contents)}")


if __name__ == "__main__":
    main()
