"""Writes the pages' tables of speeds from benchmarks/results/roi_align.csv; with --check only says if one is stale."""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "roi_align.csv"
COLUMNS = {
    ("forward", "2"): "forward",
    ("forward", "0"): "forward, adaptive",
    ("backward", "2"): "backward",
    ("backward", "0"): "backward, adaptive",
}
PEERS = ("torchvision", "onnxruntime", "OpenVINO")

Rows = list[dict[str, str]]


def compared(rows: Rows) -> Rows:
    """Those of float32 in NCHW on all threads."""
    wanted = ("float32", "NCHW", max((row["threads"] for row in rows), key=int))
    return [row for row in rows if (row["dtype"], row["layout"], row["threads"]) == wanted]


def ratios(rows: Rows, description: str, direction: str, sampling_ratio: str) -> dict[str, str]:
    """How many times as fast roialign is as each peer that was timed."""
    wanted = (description, direction, sampling_ratio)
    median_ms = {
        row["implementation"]: float(row["median_ms"])
        for row in rows
        if (row["description"], row["pass"], row["sampling_ratio"]) == wanted
    }
    return {name: f"{median_ms[name] / median_ms['roialign']:.1f}x" for name in PEERS if name in median_ms}


def table(header: list[str], body: list[list[str]]) -> str:
    lines = [["", *header], ["---"] * (len(header) + 1), *body]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- ", "|---").replace("|  |", "| |") for line in lines)


def where(rows: Rows, *libraries: str) -> str:
    row = rows[0]
    versions = ", ".join(f"{name} {row[name.lower()]}" for name in libraries)
    return f"{row['cpu']}, {row['threads']} threads, {versions}, commit {row['commit']}, {row['date']}."


def of_torchvision(rows: Rows) -> str:
    """How many times as fast as torchvision, forward and backward; and where that was measured."""
    rows = compared(rows)
    body = [
        [f"{name}: {text}", *(ratios(rows, text, *column)["torchvision"] for column in COLUMNS)]
        for name, text in {row["workload"]: row["description"] for row in rows}.items()
    ]
    return f"{table(list(COLUMNS.values()), body)}\n\n{where(rows, 'torch', 'torchvision')}"


def of_peers(rows: Rows) -> str:
    """How many times as fast as each peer, which is forward for all and backward for torchvision."""
    rows = compared(rows)
    body = []
    for name, text in {row["workload"]: row["description"] for row in rows}.items():
        for sampling_ratio, samples in (("2", "2 x 2 samples"), ("0", "adaptive")):
            forward, backward = (ratios(rows, text, way, sampling_ratio) for way in ("forward", "backward"))
            cells = [*(forward[peer] for peer in PEERS), backward["torchvision"]]
            body.append([f"{name}: {text}, {samples}", *cells])
    return f"{table([*PEERS, 'torchvision, backward'], body)}\n\n{where(rows, 'torch', *PEERS)}"


BLOCKS = {
    ("README.md", "benchmark table"): of_torchvision,
    ("docs/compared.md", "table of peers"): of_peers,
}


def main() -> int:
    if not RESULTS.exists():
        print(f"{RESULTS.relative_to(ROOT)} is missing: run make bench", file=sys.stderr)
        return 1
    with RESULTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for (page, name), made in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        block = f"{begin}\n\n{made(rows)}\n\n{end}"
        old = (ROOT / page).read_text(encoding="utf-8")
        new, found = re.subn(f"{begin}.*?{end}", lambda _, block=block: block, old, flags=re.DOTALL)
        if found != 1:
            print(f"expected {begin} and {end} once in {page}; got them {found} times", file=sys.stderr)
            return 1
        if "--check" not in sys.argv[1:]:
            (ROOT / page).write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{page}'s table is not of the results: run python scripts/make_benchmark_table.py", file=sys.stderr)
            return 1
        print(f"{page}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
