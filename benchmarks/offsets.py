"""The three offsets of real networks, and how well features agree at each. Run by `python -m benchmarks.offsets`.

Writes benchmarks/results/offsets.md, .csv and .svg, and the plots of the documentation. `--photographs DIR` measures
the trained networks on that folder as well.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

from roialign.backbones.calibrate import measure_offsets
from roialign.backbones.calibration import Calibration

from .environment import environment
from .networks import STRIDES, Network, efficientnet_lite0, open_nsfw, resnet, vit
from .offsets_plot import draw
from .photographs import load_folder, load_photographs
from .report import table
from .results import records_as_csv, write_all

RESULTS = Path(__file__).parent / "results"
ASSETS = Path(__file__).parent.parent / "docs" / "assets"
SEEDS = {"EfficientNet-Lite0": 5, "ResNet-18": 5, "ResNet-50": 3, "ViT-S/16": 5}
MOST_OF_A_FOLDER = 24
BOXES = 32
OWN = "packages"
_HEAD = """\
# Three offsets

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- {photographs} photographs ({packages}); each {boxes} boxes a level. Random networks: every other one of them.
- Versions: roialign {roialign} at commit {commit}, torch {torch}, torchvision {torchvision}, timm {timm}, onnxruntime
  {onnxruntime}, scikit-image {scikit-image}, scikit-learn {scikit-learn}, deepforest 2.1.0
- Day: {date}

Offsets are centres of cell 0, in strides: 0.5 is the convention. *Agreement* is the mean cosine between the features of
a box and those of its mirror image in the mirrored image, less what all boxes of the image share; *by chance* it is
that of two different boxes. x comes from mirroring left to right, y from mirroring upside down.

![Structural, conventional and calibrated offsets of each network](offsets.svg)
"""
_TRAINED = """\
## Trained weights

In brackets: the 95 % interval over photographs.
"""
_RANDOM = """\
## Random weights

Means over seeds; in brackets the least and the most. `undecided` counts the seeds whose photographs did not decide; the
best offset of those is in the means all the same.
"""


@dataclass(frozen=True)
class Row:
    """One network, stride and axis on one set of photographs."""

    network: str
    weights: str
    photographs: str
    images: int
    image_size: str
    stride: float
    axis: str
    structural: float
    best: float
    low: float
    high: float
    verdict: str
    agreement_at_best: float
    agreement_at_structural: float
    agreement_at_convention: float
    agreement_by_chance: float


def networks() -> Iterator[tuple[str, partial[Network]]]:
    """What is measured: a name and how to make it."""
    yield "EfficientNet-Lite0, ImageNet", partial(efficientnet_lite0)
    yield "open_nsfw ResNet-50", partial(open_nsfw)
    for seed in range(SEEDS["EfficientNet-Lite0"]):
        yield f"EfficientNet-Lite0, random {seed}", partial(efficientnet_lite0, seed)
    for name, title in (("resnet18", "ResNet-18"), ("resnet50", "ResNet-50")):
        for seed in range(SEEDS[title]):
            yield f"{title}, random {seed}", partial(resnet, name, seed)
    for seed in range(SEEDS["ViT-S/16"]):
        yield f"ViT-S/16, random {seed}", partial(vit, seed)


def calibration_of(network: Network, photographs: Sequence[Image.Image]) -> Calibration:
    """What `roialign.calibrate` would find."""
    images = (network.prepare(photograph) for photograph in photographs)
    return measure_offsets(network.maps_of, network.grids, images, network.image_size, boxes_per_image=BOXES)


def rows_of(network: Network, found: Calibration, title: str) -> Iterator[Row]:
    """The offsets of one network on one set of photographs, in strides."""
    height, width = network.image_size
    for level in found.values():
        for label, axis in (("y", level.y), ("x", level.x)):
            offsets = [axis.structural, axis.best, *(axis.interval or (None, None))]
            agreements = (axis.agreement_at_best, axis.agreement_at_structural, axis.agreement_at_convention)
            yield Row(
                network.name,
                network.weights,
                title,
                found.images,
                f"{height}x{width}",
                axis.stride,
                label,
                *(float("nan") if offset is None else offset / axis.stride for offset in offsets),
                axis.verdict,
                *(float("nan") if value is None else value for value in (*agreements, axis.agreement_by_chance)),
            )


def page(rows: Sequence[Row], facts: Mapping[str, object]) -> str:
    """All of the results as Markdown."""
    trained = [row for row in rows if not row.weights.startswith("random")]
    parts = [_HEAD.format(**facts), _TRAINED, _trained_table([row for row in trained if row.photographs == OWN])]
    for title in dict.fromkeys(row.photographs for row in trained if row.photographs != OWN):
        own = [row for row in trained if row.photographs == title]
        parts += [f"The same on {own[0].images} photographs of {title}:\n", _trained_table(own)]
    parts += [_RANDOM, _random_table([row for row in rows if row.weights.startswith("random")])]
    return "\n".join(parts)


def _trained_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        found = f"{row.best:.2f} ({row.low:.2f} to {row.high:.2f})"
        found += "" if row.verdict == "measured" else f", {row.verdict}"
        lines.append([row.network, f"{row.stride:g}", row.axis, f"{row.structural:.2f}", found, *_agreements([row])])
    return table(_columns(), lines)


def _random_table(rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.network, row.stride, row.axis), []).append(row)
    lines = []
    for (network, stride, axis), seeds in groups.items():
        best = [row.best for row in seeds]
        undecided = sum(row.verdict != "measured" for row in seeds)
        found = f"{sum(best) / len(best):.2f} ({min(best):.2f} to {max(best):.2f})"
        found += f", undecided {undecided}" if undecided else ""
        name = f"{network}, {len(seeds)} seeds"
        lines.append([name, f"{stride:g}", axis, f"{seeds[0].structural:.2f}", found, *_agreements(seeds)])
    return table(_columns(), lines)


def _columns() -> list[str]:
    head = ["network", "stride", "axis", "structural", "calibrated"]
    return [*head, "agreement at calibrated", "at structural", "at convention", "by chance"]


def _agreements(rows: Sequence[Row]) -> Iterator[str]:
    for name in ("best", "structural", "convention"):
        yield f"{sum(getattr(row, f'agreement_at_{name}') for row in rows) / len(rows):.2f}"
    yield f"{sum(row.agreement_by_chance for row in rows) / len(rows):.2f}"


def facts_of(module: str, begin: float) -> dict[str, str | float]:
    """Where and how the results were made."""
    packages = {name: version(name) for name in ("timm", "scikit-image", "scikit-learn")}
    command = "python -m " + shlex.join([module, *("DIR" if "/" in word else word for word in sys.argv[1:])])
    return {**environment(), **packages, "command": command, "minutes": (time.monotonic() - begin) / 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder, for the trained networks, too")
    parser.add_argument("--title", default="a further set", help="what to call that folder in the results")
    parser.add_argument("--only", default="", help="only the networks whose name has this; nothing is written")
    options = parser.parse_args()
    begin = time.monotonic()
    own = load_photographs()
    further = load_folder(options.photographs, MOST_OF_A_FOLDER) if options.photographs else []
    rows: list[Row] = []
    shown: Calibration | None = None
    for title, make in networks():
        if options.only not in title:
            continue
        network = make()
        trained = not network.weights.startswith("random")
        found = calibration_of(network, own if trained else own[::2])
        shown = shown or found
        new = list(rows_of(network, found, OWN))
        if trained and further:
            new += rows_of(network, calibration_of(network, further), options.title)
        rows += new
        print(f"[{time.monotonic() - begin:4.0f} s] {title}: " + ", ".join(map(_brief, new)), flush=True)
    if options.only or shown is None:
        return
    facts = {
        **facts_of("benchmarks.offsets", begin),
        "photographs": len(own),
        "packages": "scikit-image, scikit-learn, deepforest",
        "boxes": BOXES,
    }
    machine = environment()
    contents = {
        "offsets.md": page(rows, facts),
        "offsets.csv": records_as_csv([{**asdict(row), **machine} for row in rows]),
        "offsets.svg": draw([asdict(row) for row in rows if row.photographs == OWN], STRIDES),
    }
    shown.save(ASSETS / "agreement.svg")
    write_all(ASSETS, {"offsets.svg": contents["offsets.svg"].encode()})
    write_all(RESULTS, {name: text.encode() for name, text in contents.items()})
    print(f"written to {RESULTS}: {', '.join(contents)}")


def _brief(row: Row) -> str:
    return f"{row.stride:g}{row.axis} {row.best:.2f}" + ("" if row.verdict == "measured" else f" ({row.verdict})")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
