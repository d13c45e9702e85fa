"""Writes README.md's table of speeds from benchmarks/results/roi_align.csv; with --check only says if it is stale."""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "roi_align.csv"
BEGIN, END = "<!-- benchmark table -->", "<!-- end of benchmark table -->"
COLUMNS = {
    ("forward", "2"): "forward",
    ("forward", "0"): "forward, adaptive",
    ("backward", "2"): "backward",
    ("backward", "0"): "backward, adaptive",
}


def table(rows: list[dict[str, str]]) -> str:
    """How many times as fast as torchvision, for float32 in NCHW on all threads; and where that was measured."""
    threads = max((row["threads"] for row in rows), key=int)
    median_ms: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if (row["dtype"], row["layout"], row["threads"]) == ("float32", "NCHW", threads):
            key = (row["workload"], row["pass"], row["sampling_ratio"])
            median_ms.setdefault(key, {})[row["implementation"]] = float(row["median_ms"])
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for workload, description in {row["workload"]: row["description"] for row in rows}.items():
        compared = [median_ms[workload, direction, ratio] for direction, ratio in COLUMNS]
        cells = [f"{own['torchvision'] / own['roialign']:.1f}x" for own in compared]
        lines.append(f"| {workload}: {description} | {' | '.join(cells)} |")
    row = rows[0]
    where = (
        f"{row['cpu']}, {threads} threads, torch {row['torch']}, torchvision {row['torchvision']}, "
        f"commit {row['commit']}, {row['date']}."
    )
    return "\n".join([*lines, "", where])


def main() -> int:
    if not RESULTS.exists():
        print(f"{RESULTS.relative_to(ROOT)} is missing: run make bench", file=sys.stderr)
        return 1
    with RESULTS.open(encoding="utf-8", newline="") as file:
        block = f"{BEGIN}\n\n{table(list(csv.DictReader(file)))}\n\n{END}"
    old = README.read_text(encoding="utf-8")
    new, found = re.subn(f"{BEGIN}.*?{END}", lambda _: block, old, flags=re.DOTALL)
    if found != 1:
        print(f"expected {BEGIN} and {END} once in README.md; got them {found} times", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        README.write_text(new, encoding="utf-8")
    elif new != old:
        print("README.md's table is not of the results: run python scripts/make_benchmark_table.py", file=sys.stderr)
        return 1
    print("README.md: table of speeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
