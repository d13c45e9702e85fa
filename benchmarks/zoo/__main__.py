"""Traces one model of each family at two sizes and checks the grids by brute force. Run by `make zoo`.

Writes a page and a table to benchmarks/results/; with names of models or parts of them the results are not complete,
and go to a temporary folder, unless --again puts them into the place of the rows that are there. Exit status 1 if a
grid is wrong or a row crashed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.results import write_all
from benchmarks.zoo.models import selected, sizes
from benchmarks.zoo.report import as_csv, from_csv, page
from benchmarks.zoo.row import Row, traced_and_checked
from benchmarks.zoo.workers import rows

_RESULTS = Path(__file__).parent.parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("parts", nargs="*", help="parts of names, such as timm/ or resnet")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--seconds", type=float, default=150, help="for a row, after which it is given up")
    parser.add_argument("--square-only", action="store_true", help="one size of each")
    parser.add_argument("--again", action="store_true", help="put what is found into the results that are there")
    options = parser.parse_args()
    tasks = [
        (model, size_hw)
        for model in selected(options.parts)
        for size_hw in (sizes(model)[:1] if options.square_only else sizes(model))
    ]
    if not tasks:
        parser.error(f"no model has one of these in its name: {' '.join(options.parts)}")
    begin, found = time.monotonic(), list[Row]()
    try:
        for row in rows(tasks, traced_and_checked, options.workers, options.seconds):
            found.append(row)
            done = f"{len(found):4} of {len(tasks)}+  {(time.monotonic() - begin) / 60:4.1f} min"
            seconds, size = row.build_s + row.trace_s + row.check_s, f"{row.size_hw[0]} x {row.size_hw[1]}"
            print(f"{done}  {row.outcome:11} {row.model}, {size}: {seconds:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    where = {**environment(), **{name: version(name) for name in ("timm", "transformers")}}
    where |= {"minutes": f"{(time.monotonic() - begin) / 60:.0f}", "workers": str(options.workers)}
    kept = from_csv((_RESULTS / "zoo.csv").read_text(encoding="utf-8")) if options.again else []
    are_new = {(row.model, row.size_hw) for row in found}
    pairs = [pair for pair in kept if (pair[0].model, pair[0].size_hw) not in are_new]
    first = kept[0][1] if kept else where
    again = Counter(one["commit"] for _, one in pairs if one["commit"] != first["commit"])
    if options.again:
        again[where["commit"]] += len(found)
    pairs = sorted([*pairs, *((row, where) for row in found)], key=lambda pair: (pair[0].model, pair[0].size_hw))
    is_partial = (bool(options.parts) or options.square_only) and not options.again
    folder = Path(tempfile.mkdtemp(prefix="zoo-")) if is_partial else _RESULTS
    text = page([row for row, _ in pairs], first, again)
    write_all(folder, {"zoo.md": text.encode(), "zoo.csv": as_csv(pairs).encode()})
    counts = Counter(row.outcome for row in found)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()), file=sys.stderr)
    print(folder / "zoo.md")
    return int(counts["wrong"] + counts["crashed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
