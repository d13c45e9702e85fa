"""The tables of what region extraction can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.report import table

from .decoders import FORMATS, PILLOW
from .memory import BOXES, SIDE_PX
from .search import K
from .speed import ALONE, CORES, CROP_PX, CROPS, EXTRACT, IN_PARTS, OF_GRID, PART, PLAIN, SMALL_CROPS

DOLLARS_AN_HOUR = 0.04  # of a core: about what clouds ask for one, on demand
_GB = 1000.0  # MB
Rows = Sequence[Mapping[str, Any]]


def page(stages: Mapping[str, Rows], crops: Mapping[str, float], where: Mapping[str, Mapping[str, str]]) -> str:
    """All of it as Markdown; of each stage, where it was measured."""
    machines = "".join(
        f"- {name}: {one['cpu']}, {one['machine']}; torch {one['torch']}, torchvision {one['torchvision']}, roialign "
        f"at commit {one['commit']}, {one['date']}; other processes kept {one['cpus_used_by_others']} CPUs busy\n"
        for name, one in where.items()
    )
    return (
        "# Features of whole collections\n\nMade by `make bench-extraction BCCD=DIR`; do not edit it.\n\n"
        f"{machines}\n{tables(stages, crops)}"
    )


def tables(stages: Mapping[str, Rows], crops: Mapping[str, float]) -> str:
    """Of the stages that were measured."""
    makers = {
        "decoders": decoders_table,
        "speed": speed_tables,
        "sweep": sweep_table,
        "memory": memory_tables,
        "kills": kills_table,
        "hostile": hostile_table,
        "search": lambda rows: search_table(rows, crops),
    }
    return "\n".join(make(stages[name]) for name, make in makers.items() if stages.get(name))


def decoders_table(rows: Rows) -> str:
    lines = []
    for (name, _), own in _grouped(rows, "decoder", "version").items():
        of = {row["format"]: row for row in own if "ms_per_megapixel" in row}
        cells = [
            f"{of[one]['ms_per_megapixel']:.1f}, {of[one]['largest_difference']}" if one in of else ""
            for one in FORMATS
        ]
        lines.append([f"{name} {own[0]['version']}", *cells])
    return (
        f"### Decoders\n\nMilliseconds a megapixel from bytes in memory to RGB, one thread: the median over "
        f"{rows[0]['photographs']} photographs, all libraries in turn; and the largest difference from what {PILLOW} "
        f"reads, of 255.\n\n{table(['', *FORMATS], lines)}"
    )


def speed_tables(rows: Rows) -> str:
    parts = [
        "### Speed\n",
        f"Images a second, from the first image that is read to the last part that is written: the median of "
        f"{_rounds(rows)} rounds in turn (least to most). All {CORES} cores. Networks with random weights of one file; "
        "the images and the size at which they enter the network are the same.\n",
        f"- *{PLAIN}*: Pillow, torchvision's transforms, the backbone on one image after another, "
        "`torchvision.ops.roi_align` with `spatial_scale=1/32`, `aligned=True`, `torch.save` for each image; torch's "
        "threads as they are. Its features are those of `extract()`: the largest difference is "
        f"{max(row['largest_difference'] for row in rows):.1g} of the largest feature.\n"
        f"- *{ALONE}*: on tensors that are in memory already, with what is fastest of one process or one for each "
        "core, in batches of 1, 4 or 16.\n"
        "- *20 crops an image*: each is cut out, resized and embedded, in a batch of 20, against `extract()` with the "
        f"same 20 boxes. Of the size at which images enter the network, or of {CROP_PX} x {CROP_PX} pixels.\n",
    ]
    for of, own in _grouped(rows, "set", "backbone").items():
        names = dict.fromkeys(row["contender"] for row in own)
        lines = [[name, _spread(_rates(own, name)), _start(own, name)] for name in names]
        parts += [f"{of[0]}, {of[1]}; the backbone alone: {own[0]['setting_alone']}.\n"]
        parts += [table(["", "images/s", "seconds to begin"], lines)]
    head = ["", "backbone", "", "times the plain script", "of the backbone alone, %"]
    lines = [
        [*of, name, _ratio(own, name, PLAIN), _ratio(own, name, ALONE, 100)]
        for of, own in _grouped(rows, "set", "backbone").items()
        for name in (EXTRACT, IN_PARTS)
    ]
    parts += [table(head, lines)]
    lines = [
        [*of, _ratio(own, OF_GRID, CROPS), _ratio(own, OF_GRID, SMALL_CROPS)]
        for of, own in _grouped(rows, "set", "backbone").items()
    ]
    parts += [table(["", "backbone", f"times {CROPS}", f"times {SMALL_CROPS}"], lines)]
    parts += [
        f"A million such images, in parts of {PART}, at ${DOLLARS_AN_HOUR:.2f} a core hour:\n",
        table(
            ["", "backbone", "core hours", "$"],
            [_cost(of, own) for of, own in _grouped(rows, "set", "backbone").items()],
        ),
    ]
    return "\n".join(parts)


def sweep_table(rows: Rows) -> str:
    """Other numbers of workers and threads, beside what is the default."""
    default = _median([row["images_per_s"] for row in rows if _is_default(row)])
    lines = []
    for setting, own in _grouped(rows, "workers", "threads", "decoders").items():
        rates = [row["images_per_s"] for row in own]
        name = f"{setting[0]}, the default" if _is_default(own[0]) else str(setting[0])
        lines.append([name, *map(str, setting[1:]), _spread(rates), f"{100 * _median(rates) / default - 100:+.0f} %"])
    head = ["workers", "threads each", "threads that decode, each", "images/s", "against the default"]
    return f"### Workers\n\n{rows[0]['set']}, {rows[0]['backbone']}, parts of {PART} images.\n\n{table(head, lines)}"


def memory_tables(rows: Rows) -> str:
    lines = [
        [
            f"{row['images']:,}",
            f"{row['boxes']:,}",
            f"{row['peak_pss_mb']:.0f}",
            f"{row['peak_rss_mb']:.0f}",
            f"{row['seconds'] / 60:.1f}",
            f"{row['images_per_s']:.0f}",
            f"{row['store_mb']:.0f}",
            f"{row['index_mb']:.0f}",
        ]
        for row in rows
    ]
    head = ["images", "boxes", "memory, MB", "sum of RSS, MB", "minutes", "images/s", "rows, MB", "index of boxes, MB"]
    largest = max(rows, key=lambda row: row["images"])
    size_gb = largest["store_mb"] / largest["boxes"] * 1e8 / _GB
    hours = largest["seconds"] / largest["boxes"] * 1e8 / 3600
    return (
        f"### Memory\n\nPhotographs of {SIDE_PX} x {SIDE_PX} pixels with {BOXES} boxes each, in a COCO file; a "
        f"backbone of one convolution and {largest['channels']} channels. The most that the command and its processes, "
        f"{largest['processes']} of them, take at once: what they share counted once, and the sum of what is "
        "resident.\n\n"
        f"{table(head, lines)}\nA hundred million boxes, likewise: {hours:.0f} hours, {size_gb:.0f} GB, "
        f"${hours * CORES * DOLLARS_AN_HOUR:.2f} at ${DOLLARS_AN_HOUR:.2f} a core hour.\n"
    )


def kills_table(rows: Rows) -> str:
    head = ["killed", "kills", "before a part", "among parts", "after the last", "that left half a file"]
    head += ["stores", "runs that went on", "files that differ", "rows lost", "rows twice"]
    names = ["kills", "before", "within", "after", "half_written", "stores", "resumes", "different"]
    lines = [[row["killed"], *(str(row[name]) for name in (*names, "rows_lost", "rows_twice"))] for row in rows]
    return (
        f"### Kills\n\nSIGKILL at moments drawn evenly from the time that a run takes; {rows[0]['rows']:,} rows in "
        f"{rows[0]['parts']} parts. Every store was then finished and compared with one of a run that nobody killed, "
        f"byte for byte.\n\n{table(head, lines)}"
    )


def hostile_table(rows: Rows) -> str:
    lines = [
        [f"`{row['file']}`", row["what"], str(row["rows"]), "<br>".join(map(_cell, row["errors"]))] for row in rows
    ]
    head = ["file", "what", "rows", "errors"]
    return f"### Hostile files\n\nThe exit status is {rows[0]['status']}.\n\n{table(head, lines)}"


def search_table(rows: Rows, crops: Mapping[str, float]) -> str:
    lines = [
        [
            row["stride"],
            row["class"],
            str(row["boxes"]),
            str(row["queries"]),
            f"{100 * row['precision']:.1f}",
            f"{100 * row['random']:.1f}",
        ]
        for row in rows
    ]
    of_crops = "".join(
        f"\nCrops, the mean over classes at stride {stride}, among 300 of each class: {100 * value:.1f} %.\n"
        for stride, value in crops.items()
    )
    return (
        f"### Search\n\nOf blood cells, by EfficientNet-Lite0 with ImageNet weights: the share of the {K} nearest "
        "regions of other photographs that are of the query's class, and that of regions drawn at random, in percent."
        "\n\n"
        f"{table(['stride', 'class', 'boxes', 'queries', f'precision at {K}', 'at random'], lines)}{of_crops}"
    )


def _decoded(row: Mapping[str, Any]) -> str:
    return f"{row['ms_per_megapixel']:.1f}, {row['largest_difference']}"


def _grouped(rows: Rows, *names: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _rounds(rows: Rows) -> int:
    return 1 + max(row["round"] for row in rows)


def _rates(own: Rows, contender: str) -> dict[int, float]:
    """By round."""
    return {row["round"]: row["images_per_s"] for row in own if row["contender"] == contender}


def _start(own: Rows, contender: str) -> str:
    seconds = _median([row["begin_s"] for row in own if row["contender"] == contender])
    return f"{seconds:.0f}" if seconds else ""


def _ratio(own: Rows, ours: str, theirs: str, factor: float = 1) -> str:
    """Of the rates in the same round."""
    others = _rates(own, theirs)
    return _spread({number: factor * rate / others[number] for number, rate in _rates(own, ours).items()})


def _cost(of: tuple[Any, ...], own: Rows) -> list[str]:
    hours = 1e6 / _median(list(_rates(own, IN_PARTS).values())) / 3600 * CORES
    return [*of, f"{hours:.0f}", f"{hours * DOLLARS_AN_HOUR:.2f}"]


def _is_default(row: Mapping[str, Any]) -> bool:
    return (row["workers"], row["threads"], row["decoders"]) == (CORES, 1, 1)


def _median(values: Sequence[float]) -> float:
    return float(median(values))


def _spread(values: Mapping[int, float] | Sequence[float]) -> str:
    listed = list(values.values()) if isinstance(values, Mapping) else list(values)
    return f"{_median(listed):.2f} ({min(listed):.2f} to {max(listed):.2f})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
