"""All operators but roi_align on the CPU: verified first, then timed. Run by `make bench-operators`.

Each is held against the peers that have it, or else against its reference and roi_align's own time. Writes one page and
one table to benchmarks/results/; with --quick or --only the results are not complete, and go to a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import roialign
from benchmarks.environment import Neighbours, environment
from benchmarks.implementations import ROIALIGN
from benchmarks.report import provenance, spread, table
from benchmarks.results import OperatorRow, as_csv, write_all
from benchmarks.timing import Budget, Times
from roialign.ops import backends

from . import axes, sampled, torchvisions
from .comparison import Comparison, measure, speedup

RESULTS = Path(__file__).parents[1] / "results"
FULL, QUICK = Budget(least_repeats=7, seconds=2.0), Budget(least_repeats=2, seconds=0.0)
OPERATORS: dict[str, Callable[[bool], Iterator[Comparison]]] = {
    compare.__name__: compare
    for compare in (
        torchvisions.roi_pool,
        torchvisions.ps_roi_align,
        torchvisions.ps_roi_pool,
        torchvisions.paste_masks,
        sampled.roi_align_max,
        sampled.roi_align_rotated,
        sampled.masked_roi_align,
        sampled.prroi_pool,
        axes.roi_align_3d,
        axes.roi_align_1d,
    )
}
_NOTES = """\
Milliseconds, float32: median (first to third quartile). The columns that begin with "to" have the median of another
implementation in brackets, and how many times as fast as it roialign is. `reference` is roialign's definition in
PyTorch. Where `roialign.roi_align` and `torchvision.roi_align` stand, they pool the same boxes, or upright ones of the
same sizes, and compute something else: they say what the operator costs over a plain RoIAlign.
"""


def page(rows: Sequence[OperatorRow]) -> str:
    """A section for each operator."""
    parts = [_NOTES]
    for operator in dict.fromkeys(row.operator for row in rows):
        own = [row for row in rows if row.operator == operator]
        descriptions = {row.workload: row.description for row in own}
        parts.append(f"## {operator}\n")
        parts.append("".join(f"- {name}: {text}\n" for name, text in descriptions.items()))
        parts.append(_table(own))
    return "\n".join(parts)


def _table(rows: Sequence[OperatorRow]) -> str:
    groups: dict[tuple[str, ...], dict[str, Times]] = {}
    for row in rows:
        key = (row.workload, row.pass_, row.options, row.layout, str(row.threads))
        groups.setdefault(key, {})[row.implementation] = row.times
    names = [name for name in dict.fromkeys(row.implementation for row in rows) if name != ROIALIGN]
    lines = []
    for key, own in groups.items():
        others = [f"{speedup(own[ROIALIGN], own[n])} ({own[n].median_ms:.3g})" if n in own else "" for n in names]
        lines.append([*key, spread(own[ROIALIGN]), *others])
    return table(
        ["workload", "pass", "options", "layout", "threads", ROIALIGN, *(f"to {name}" for name in names)], lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small workloads, few repeats: only to see that it runs")
    parser.add_argument("--only", nargs="+", choices=list(OPERATORS), default=[], help="measure only these")
    arguments = parser.parse_args()
    if backends.of_device("cpu") is None:
        raise SystemExit(f"nothing to measure: {backends.BACKENDS[0].why_not}")
    roialign.set_policy("ignore")
    where, neighbours = environment(), Neighbours()
    rows = [
        row
        for operator in arguments.only or OPERATORS
        for comparison in OPERATORS[operator](arguments.quick)
        for row in measure(operator, comparison, QUICK if arguments.quick else FULL)
    ]
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    complete = not (arguments.quick or arguments.only)
    folder = RESULTS if complete else Path(tempfile.mkdtemp(prefix="roialign-benchmark-"))
    text = f"# The other operators on the CPU\n\n{provenance(where, 'make bench-operators')}\n{page(rows)}"
    write_all(folder, {"operators.md": text.encode(), "operators.csv": as_csv(rows, where).encode()})
    print(f"written to {folder}: operators.csv, operators.md")


if __name__ == "__main__":
    main()
