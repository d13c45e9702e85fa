"""The rows of the results, and how they are written."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .timing import Times

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"


@dataclass(frozen=True)
class TimeRow:
    """The time of one implementation for one setting and pass."""

    workload: str
    description: str
    pass_: str
    sampling_ratio: int
    dtype: str
    layout: str
    threads: int
    implementation: str
    times: Times


@dataclass(frozen=True)
class OperatorRow:
    """The time of one way to compute what an operator computes, for one setting and pass, in float32."""

    operator: str
    workload: str
    description: str
    pass_: str
    options: str
    layout: str
    threads: int
    implementation: str
    times: Times


@dataclass(frozen=True)
class ModelRow:
    """The time of a whole model, with torchvision's operators by one implementation, and their share in it."""

    model: str
    description: str
    pass_: str
    threads: int
    implementation: str
    roi_percent: float
    times: Times


@dataclass(frozen=True)
class MemoryRow:
    """The memory that one call takes above what was resident before, its result included."""

    workload: str
    pass_: str
    sampling_ratio: int
    dtype: str
    implementation: str
    result_mb: float
    extra_mb: float


@dataclass(frozen=True)
class FloorRow:
    """What the machine needs at least: to move these bytes, and to touch a new result."""

    workload: str
    pass_: str
    sampling_ratio: int
    dtype: str
    moved_mb: float
    bandwidth_gb_per_s: float
    move_ms: float
    first_touch_ms: float


@dataclass(frozen=True)
class GrowthRow:
    """The time of one implementation at one point of a series."""

    series: str
    boxes: int
    output_size: int
    pass_: str
    implementation: str
    times: Times


@dataclass(frozen=True)
class Drawn:
    """One random call of roi_align."""

    seed: int
    number: int
    images: int
    channels: int
    height: int
    width: int
    boxes: int
    bins_hw: tuple[int, int]
    sampling_ratio: int
    aligned: bool
    channels_last: bool
    backward: bool
    spatial_scale: float


@dataclass(frozen=True)
class SweepRow:
    """The median times of one random call."""

    call: Drawn
    roialign_ms: float
    torchvision_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torchvision's it is."""
        return self.torchvision_ms / self.roialign_ms


@dataclass(frozen=True)
class ColumnRow:
    """How the features of a table are stored, and what it takes to write and to read all of them, and one."""

    dtype: str
    column: str
    compression: str
    size_mb: float
    write_s: float
    one_row_ms: float
    pyarrow_s: float
    pandas_s: float
    polars_s: float
    duckdb_s: float


Row = TimeRow | OperatorRow | ModelRow | MemoryRow | FloorRow | GrowthRow | SweepRow | ColumnRow


def as_csv(rows: Sequence[Row], environment: Mapping[str, str]) -> str:
    """The rows, each with where and when it was measured."""
    return records_as_csv([{**_record(row), **environment} for row in rows])


def records_as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The records, one a line, under the names of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in records)
    return text.getvalue()


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files, each put in its place only when all are on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / f".{name}.part": folder / name for name in contents}
    for part, path in written.items():
        part.write_bytes(contents[path.name])
    for part, path in written.items():
        os.replace(part, path)


def with_tables(page: str, name: str, tables: str) -> bytes:
    """A page of the documentation with these tables in place of those that it has under this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text, count = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n\n{tables}\n{end}", (DOCS / page).read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"expected {begin} and {end} once in docs/{page}; got them {count} times")
    return text.encode()


def _record(row: Row) -> dict[str, str | int]:
    fields = asdict(row)
    for nested in ("times", "call"):
        fields |= fields.pop(nested, {})
    return {name.rstrip("_"): f"{value:.6g}" if isinstance(value, float) else value for name, value in fields.items()}
