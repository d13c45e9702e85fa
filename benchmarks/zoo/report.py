"""The table of the zoo as a page and as rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast, get_args

from benchmarks.report import table
from benchmarks.results import records_as_csv
from benchmarks.zoo.models import family
from benchmarks.zoo.row import Outcome, Row

_HEAD = """\
# The zoo: models traced at two sizes each

Made by `make zoo`; do not edit it.

- Machine: {cpu}, {machine}
- Versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}, timm {timm}, transformers
  {transformers}
- Day: {date}; {minutes} minutes with {workers} processes of one thread each

One model of each of timm's modules, of transformers' backbones and vision towers, and of torchvision's families, with
random weights, as `roialign trace` builds and traces it: at a square size and at 229 x 301, which is no multiple of any
stride; at 192 x 256 as well where the model refuses that.

{again}- **right**: lines of the image were spoilt, one at a time, and reached the cells that the grid says and no
  others; in a pyramid, whose cells see unevenly, none that the cell that sees most would not see; where attention,
  gates or normalization mix the whole image, in the model without them; where that leaves no place, the cells answered
  most that the grid says.
- **not checked**: traced, but too slow to be run as often, or the check did not decide.
- **refused**: a message instead of a grid.
- **wrong**: the grid says something else than what the image did.
- **crashed**: an error without a message of ours, or no answer in time.
"""


def page(
    rows: Sequence[Row],
    environment: Mapping[str, str],
    again: Mapping[str, int] | None = None,
) -> str:
    """All of it as Markdown; `again` is how many of the rows were made again at other commits."""
    counts = Counter((family(row.model), row.outcome) for row in rows)
    outcomes = get_args(Outcome)
    families = sorted({family(row.model) for row in rows})
    lines = [[name, *(str(counts[name, outcome]) for outcome in outcomes)] for name in families]
    lines.append(["**all**", *(str(sum(counts[name, outcome] for name in families)) for outcome in outcomes)])
    parts = [
        _HEAD.format(again=_again(again or {}), **environment),
        table(["", *outcomes], lines),
    ]
    parts.append("\nSeconds of one processor: building, tracing, checking.\n")
    ordered = sorted(rows, key=lambda row: (outcomes[::-1].index(row.outcome), family(row.model), row.model))
    parts.append(table(["model", "image", "maps", "outcome", "how it is known, or why not", "s"], map(_cells, ordered)))
    return "\n".join(parts)


def _again(rows: Mapping[str, int]) -> str:
    """What is said of rows of other commits."""
    said = " and ".join(f"{number} at commit {commit}" for commit, number in rows.items())
    return f"Rows made again later, with `--again`: {said}; zoo.csv says which.\n\n" if said else ""


def _cells(row: Row) -> list[str]:
    detail = " ".join(row.detail.replace("|", "\\|").split())
    times = f"{row.build_s:.1f} + {row.trace_s:.1f} + {row.check_s:.1f}"
    return [row.model, f"{row.size_hw[0]} x {row.size_hw[1]}", str(row.maps or ""), row.outcome, detail, times]


def as_csv(rows: Sequence[tuple[Row, Mapping[str, str]]]) -> str:
    """The rows, each with where and when it was made."""
    records = []
    for row, environment in rows:
        fields = asdict(row)
        height, width = fields.pop("size_hw")
        times = {name: f"{value:.3g}" for name, value in fields.items() if isinstance(value, float)}
        records.append({**fields, **times, "image_height": height, "image_width": width, **environment})
    return records_as_csv(records)


def from_csv(text: str) -> list[tuple[Row, dict[str, str]]]:
    """What `as_csv` wrote."""
    found = []
    for record in csv.DictReader(io.StringIO(text)):
        size_hw = int(record.pop("image_height")), int(record.pop("image_width"))
        names = [record.pop(name) for name in ("model", "outcome", "detail")]
        seconds = [float(record.pop(name)) for name in ("build_s", "trace_s", "check_s")]
        model, outcome, detail = names[0], cast(Outcome, names[1]), names[2]
        found.append((Row(model, size_hw, outcome, detail, int(record.pop("maps")), *seconds), record))
    return found
