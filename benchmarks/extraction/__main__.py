"""What region extraction can do: `make bench-extraction BCCD=DIR`.

Its stages are decoders, speed, sweep (of workers), memory, kills, hostile and search; names of some run these alone.
Goes on where it stopped: what is measured lies in --runs. Writes benchmarks/results/extraction.md, a .csv for each
stage, and the tables of docs/extraction.md. `--tiny` tries all of it on very little, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.environment import Neighbours, environment
from benchmarks.results import DOCS, RESULTS, records_as_csv, with_tables, write_all

from . import decoders, hostile, kills, memory, search, speed
from .kept import Kept
from .report import page, tables
from .sets import Boxed, sets

_NONE_YET = "Not measured yet: `make bench-extraction BCCD=DIR` writes its tables here.\n"
Row = dict[str, Any]


def stages(options: argparse.Namespace, kept: Kept, scratch: Path) -> dict[str, Callable[[], Iterable[Row]]]:
    """Those that can be run with what is there, by name."""
    tiny = options.tiny
    boxed = list(sets(options.bccd, options.runs))
    sizes = speed.Sizes(4, 4, 2, 1, 0.5) if tiny else speed.Sizes(options.images, 128, 8, options.rounds, 10.0)
    counts = {kills.GROUP: options.kills, kills.WORKER: max(1, options.kills // 5), kills.ACTOR: 3}
    images = 20 if tiny else 600
    if tiny:
        boxed = [Boxed(one.name, one.photos, one.annotations, (96, 128)) for one in boxed]
        counts = {kills.GROUP: 2, kills.WORKER: 1, kills.ACTOR: 1}
    found: dict[str, Callable[[], Iterable[Row]]] = {
        "decoders": lambda: decoders.speeds(*((2, 1) if tiny else (None, 9)), kept),
        "memory": lambda: memory.memories((40, 100) if tiny else (1000, options.memory_images), kept, scratch),
        "kills": lambda: kills.all_kills(images, counts, kept, scratch),
        "hostile": lambda: hostile.outcomes(100 if tiny else 10_000, kept, scratch),
    }
    if boxed:
        found["speed"] = lambda: speed.speeds(boxed, sizes, kept, scratch)
        found["sweep"] = lambda: speed.sweep(boxed[0], sizes, kept, scratch)
    if options.bccd is not None:
        cells = boxed[0].some(scratch / "cells", 6) if tiny else boxed[0]
        found["search"] = lambda: search.precisions(cells, 5 if tiny else 300, kept, scratch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help="some of them; all, if left out")
    parser.add_argument("--bccd", type=Path, help="the folder of the BCCD data set")
    parser.add_argument("--runs", type=Path, default=Path("demo/extraction"), help="where what is measured is kept")
    parser.add_argument("--images", type=int, help="of each set, for the speed; all, if left out")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed and of the workers")
    parser.add_argument("--memory-images", type=int, default=100_000, help="in the large collection")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--tiny", action="store_true", help="a trial of all on very little; nothing is written")
    options = parser.parse_args()
    folder = (options.runs / "tiny" if options.tiny else options.runs).resolve()  # commands run elsewhere
    there = stages(options, Kept(folder / "kept"), folder / "scratch")
    if unknown := set(options.stages) - set(there):
        raise SystemExit(f"expected stages of {', '.join(there)}; got {', '.join(sorted(unknown))}")
    for name in options.stages or there:
        _measure(name, there[name], folder)
    measured = {name: _measured(folder / f"{name}.json") for name in there}
    found = {name: one["rows"] for name, one in measured.items() if one}
    where = {name: one["where"] for name, one in measured.items() if one}
    crops = search.of_crops()
    if options.tiny:
        print(page(found, crops, where))
        return
    contents = {"extraction.md": page(found, crops, where)}
    contents |= {f"extraction_{name}.csv": _csv(rows, where[name]) for name, rows in found.items()}
    write_all(RESULTS, {name: text.encode() for name, text in contents.items()})
    shown = tables(found, crops) or _NONE_YET
    write_all(DOCS, {"extraction.md": with_tables("extraction.md", "extraction", shown)})
    print(f"written to {RESULTS}: {', '.join(contents)}; the tables of docs/extraction.md")


def _measure(name: str, make: Callable[[], Iterable[Row]], folder: Path) -> None:
    """A stage, and where and beside what it was run: of one that went on, where it ended."""
    begin, neighbours = time.monotonic(), Neighbours()
    print(f"{name} ...", flush=True)
    rows = list(make())
    where = {**environment(), "cpus_used_by_others": f"{neighbours.cpus():.1f}"}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    part.write_text(json.dumps({"rows": rows, "where": where}))
    part.replace(folder / f"{name}.json")
    print(f"{name}: {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)


def _measured(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _csv(rows: Iterable[Row], where: dict[str, str]) -> str:
    listed = [
        {name: "; ".join(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
    ]
    names = dict.fromkeys(name for row in listed for name in row)
    return records_as_csv([{**{name: row.get(name, "") for name in names}, **where} for row in listed])


if __name__ == "__main__":
    main()
