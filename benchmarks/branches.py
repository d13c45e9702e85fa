"""Where cells respond in which branches of different offsets meet, those of ResNet-D: `python -m benchmarks.branches`.

Writes benchmarks/results/branches.md and the table in docs/grids.md. Takes two minutes.
"""

from __future__ import annotations

import statistics

import timm
import torch
from torch import Tensor

import roialign

from .environment import environment
from .report import table
from .results import DOCS, RESULTS, with_tables, write_all

NETWORKS = ("resnet50d", "resnet18d")
STRIDES = {8: "2", 16: "3", 32: "4"}
SIDE_PX, SEEDS = 512, 6
_HEAD = """\
# Branches that meet

Made by `python -m benchmarks.branches`; do not edit it.

Pixels from the upper left corner of the image to the centre of cell (0, 0). *Responds at*: the centroid of the squared
gradient of a cell in the middle with respect to {side} x {side} random pixels, mean and standard deviation over {seeds}
seeds and both axes. Random weights as timm makes them, with residual branches that begin at zero and without.

- Versions: roialign {roialign} at commit {commit}, torch {torch}, timm {timm}
- Day: {date}

{rows}"""


def responses(name: str, zero_branches: bool, seed: int) -> dict[int, tuple[float, float]]:
    """By stride, where cells respond, (y, x)."""
    torch.manual_seed(seed)
    network = timm.create_model(name, features_only=True, zero_init_last=zero_branches).eval()
    image = torch.randn(1, 3, SIDE_PX, SIDE_PX, requires_grad=True)
    maps = network(image)
    return {stride: _responds_at(maps[int(index)], image, stride) for stride, index in STRIDES.items()}


def _responds_at(features: Tensor, image: Tensor, stride: int) -> tuple[float, float]:
    row, column = (side // 2 for side in features.shape[2:])
    (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), image, retain_graph=True)
    weights = gradient[0].double().square().sum(0)
    centres_px = torch.arange(SIDE_PX, dtype=torch.float64) + 0.5
    along_y, along_x = ((weights.sum(axis) * centres_px).sum() / weights.sum() for axis in (1, 0))
    return float(along_y) - row * stride, float(along_x) - column * stride


def spread(found: list[float]) -> str:
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}"


def main() -> None:
    lines = []
    for name in NETWORKS:
        grids = roialign.trace(timm.create_model(name, features_only=True), (SIDE_PX, SIDE_PX), measured=False)
        found = {zero: [responses(name, zero, seed) for seed in range(SEEDS)] for zero in (True, False)}
        for stride, index in STRIDES.items():
            of_axes = {zero: [one for response in found[zero] for one in response[stride]] for zero in found}
            structure = (grids[index].receptive_field_centre_yx[0], grids[index].structural_offset_yx[0])
            lines.append([name, str(stride), *(f"{px:g}" for px in structure), *map(spread, of_axes.values())])
            print(*lines[-1], flush=True)
    head = ["network", "stride", "field's centre", "finest branch"]
    rows = table([*head, "responds at, residual branches zero", "responds at, all weights random"], lines)
    facts = {"timm": timm.__version__, "side": SIDE_PX, "seeds": SEEDS, "rows": rows}
    write_all(RESULTS, {"branches.md": _HEAD.format(**environment(), **facts).encode()})
    write_all(DOCS, {"grids.md": with_tables("grids.md", "branches", rows)})


if __name__ == "__main__":
    main()
