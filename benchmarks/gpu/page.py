"""The results on a GPU as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.workloads import WORKLOADS

from .timing import ATOMIC, DETERMINISTIC, ROIALIGN

Row = dict[str, str]


def page(rows: Sequence[Row]) -> str:
    if not rows:
        return "# On a GPU\n\nNothing was measured.\n"
    where = rows[0]
    described = "\n".join(f"- {one.name}: {one.description}" for one in WORKLOADS)
    bandwidth = next((row["note"] for row in rows if row["kind"] == "bandwidth"), "not measured")
    return (
        f"# On a GPU\n\n{where['gpu']}, torch {where['torch']}, triton {where['triton']}, torchvision "
        f"{where['torchvision']}, {where['date']}, commit {where['commit'] or 'unknown'}. Copies move {bandwidth}.\n\n"
        "Milliseconds: median (first to third quartile). The floor is what has to be moved at least (cells that boxes\n"
        "read, once, and results) at the bandwidth of a copy. torchvision has no kernel for bfloat16: it is given\n"
        "float32 copies, and pools level by level, from boxes sorted ahead.\n\n"
        f"{described}\n- training: 16 images of W3 with 512 boxes each\n\n"
        f"## By the GPU's clock\n\n{_table(_of_clock(rows, 'events'))}\n"
        f"## By the wall clock, the public functions\n\n{_table(_of_clock(rows, 'wall'))}\n"
        f"## Checks passed\n\n{_checks(rows)}"
    )


def _of_clock(rows: Iterable[Row], clock: str) -> list[Row]:
    return [row for row in rows if row["kind"] == "time" and row["clock"] == clock]


def _table(rows: Sequence[Row]) -> str:
    names = [name for name in (ROIALIGN, ATOMIC, DETERMINISTIC) if any(r["implementation"] == name for r in rows)]
    lines = [f"| | {' | '.join(names)} | times faster | floor |", "|---|" + "---:|" * (len(names) + 2)]
    settings: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        sampling = "" if row["sampling_ratio"] == "2" else ", adaptive"
        key = (row["name"] + sampling, row["dtype"], row["layout"], row["pass"])
        settings.setdefault(key, {})[row["implementation"]] = row
    for key, found in settings.items():
        ours, theirs = found.get(ROIALIGN), found.get(ATOMIC)
        faster = ""
        if ours and theirs and ours["median_ms"] and theirs["median_ms"]:
            faster = f"{float(theirs['median_ms']) / float(ours['median_ms']):.1f}"
        floor = f"{float(ours['floor_ms']):.3f}" if ours and ours["floor_ms"] not in ("", "0") else ""
        cells = [_cell(found.get(name)) for name in names]
        lines.append(f"| {', '.join(key)} | {' | '.join(cells)} | {faster} | {floor} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if not row["median_ms"]:
        return row["note"]
    return f"{float(row['median_ms']):.3f} ({float(row['q1_ms']):.3f} to {float(row['q3_ms']):.3f})"


def _checks(rows: Iterable[Row]) -> str:
    checks = [row for row in rows if row["kind"] == "check"]
    return "".join(f"- {row['name']}{': ' + row['note'] if row['note'] else ''}\n" for row in checks)
