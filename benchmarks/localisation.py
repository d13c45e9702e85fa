"""What the choice of the offset does to localisation. Run by `python -m benchmarks.localisation`.

Frozen EfficientNet-Lite0 (ImageNet) at strides 8, 16 and 32, read with the zero, structural, conventional and
calibrated offset. Writes benchmarks/results/localisation.md and .csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from roialign.backbones.calibrate import measure_offsets

from .environment import environment
from .localisation_regression import FOLDS, JITTERS, Chip, Regression, as_input, chips_of, regress
from .localisation_retrieval import COPIES, QUERIES, Retrieval, retrieve
from .networks import STRIDES, Network, efficientnet_lite0
from .offsets import facts_of
from .photographs import load_photographs, load_trees
from .report import table
from .results import records_as_csv, write_all

RESULTS = Path(__file__).parent / "results"
OFFSETS = ("zero", "structural", "convention", "calibrated")
RESAMPLES = 2000
MOST_CHIPS_TO_CALIBRATE = 16
Offsets = Mapping[str, Mapping[str, tuple[float, float]]]
_HEAD = """\
# Localisation, by the offset that the features are read with

Made by `{command}` in {minutes:.0f} minutes; do not edit it.

- EfficientNet-Lite0 with ImageNet weights, frozen, 3 x 3 bins; versions: roialign {roialign} at commit {commit}, torch
  {torch}, timm {timm}, scikit-image {scikit-image}, scikit-learn {scikit-learn}, deepforest 2.1.0
- Day: {date}

In brackets: 95 % intervals, by resampling {unit_1} or {unit_2}. *Less than at the convention* compares the same queries
or boxes with the two offsets; an interval that includes 0 shows no difference.
"""
_RETRIEVAL = """\
## The same place in a changed copy

{photographs} photographs, {queries} boxes of each and stride. The features of a box are looked for among 289 boxes
around its true place in the copy, up to one stride away, an eighth of a stride apart, by cosine (the mean of the map
removed). *Error* is the mean distance of the best from the true place, in pixels of the copy; *top-1* the share of
boxes for which it is the true place. The offsets are calibrated on the other half of the photographs. In a copy of
equal size a wrong offset moves both readings alike and cancels: that row is the control. Resizing leaves a part of it
(the difference of the sizes), mirroring twice all of it.
"""
_REGRESSION = """\
## A linear regressor on trees

{boxes} displaced boxes of {trees} trees ({jitters} each: up to a quarter of a side away, up to 22 % larger or smaller)
in {chips} chips of 400 x 400 px of the aerial photographs, enlarged to 640. A ridge regressor predicts the true box
from the features of the displaced one; {folds} folds of whole chips, though chips of one tile may be in different
folds. *Error* is the distance of the centres in pixels of the photograph. The offsets are calibrated on the chips,
without their boxes.
"""


def offsets_of(network: Network, images: Sequence[Tensor]) -> Offsets:
    """The four offsets (y, x) in pixels of each level, the calibrated one measured on these images."""
    size = (images[0].shape[1], images[0].shape[2])
    grids = efficientnet_lite0(side_px=size[0]).grids if size != network.image_size else network.grids
    found = measure_offsets(network.maps_of, grids, iter(images), size)
    by_offset: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in OFFSETS}
    for level, grid in grids.items():
        structural, calibrated = grid.structural_offset_yx, found[level].offset_yx
        if structural is None or calibrated is None:
            raise RuntimeError(f"stride {level}: {found[level]}")
        half = float(level) / 2
        for name, offset in zip(OFFSETS, ((0.0, 0.0), structural, (half, half), calibrated), strict=True):
            by_offset[name][level] = offset
    return by_offset


def run_retrieval(network: Network, photographs: Sequence[Image.Image]) -> tuple[list[Retrieval], list[Offsets]]:
    """Retrieval on all photographs, each half with the offsets calibrated on the other."""
    halves = [offsets_of(network, [network.prepare(photograph) for photograph in photographs[i::2]]) for i in (1, 0)]
    own = [halves[index % 2] for index in range(len(photographs))]
    return list(retrieve(network, photographs, own, seed=0)), halves


def interval(values: Tensor, weights: Tensor) -> tuple[float, float, float]:
    """The weighted mean, and its 95 % interval by drawing the values again with replacement."""
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    means = (values * weights)[drawn].sum(1) / weights[drawn].sum(1)
    low, high = torch.quantile(means, means.new_tensor([0.025, 0.975])).tolist()
    return float((values * weights).sum() / weights.sum()), low, high


def _shown(values: Sequence[float], weights: Sequence[float], digits: int = 2) -> str:
    mean, low, high = interval(torch.tensor(values).double(), torch.tensor(weights).double())
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _retrieval_table(rows: Sequence[Retrieval]) -> str:
    def lines() -> Iterator[list[str]]:
        for copy in COPIES:
            for stride in STRIDES:
                own = [row for row in rows if (row.copy, row.stride) == (copy.name, stride)]
                for offset in OFFSETS:
                    top1 = [row.top1 for row in own if row.offset == offset]
                    errors = _compared(own, offset, lambda row: row.error_px, None)
                    yield [copy.name, str(stride), offset, *errors, _shown(top1, [1.0] * len(top1))]

    head = ["copy", "stride", "offset", "error, px", "less than at the convention, px", "top-1"]
    return table(head, lines())


def _regression_table(rows: Sequence[Regression]) -> str:
    def lines() -> Iterator[list[str]]:
        for stride in STRIDES:
            own = [row for row in rows if row.stride == stride]
            for offset in OFFSETS:
                chosen = [row for row in own if row.offset == offset]
                boxes = [float(row.boxes) for row in chosen]
                before = [row.error_px_before for row in chosen], [row.iou_before for row in chosen]
                error = _compared(own, offset, lambda row: row.error_px_after, lambda row: float(row.boxes))
                iou = _shown([row.iou_after for row in chosen], boxes, 3)
                means = [
                    f"{interval(torch.tensor(b), torch.tensor(boxes))[0]:.{n}f}"
                    for b, n in zip(before, (2, 3), strict=True)
                ]
                yield [str(stride), offset, means[0], *error, means[1], iou]

    head = [
        "stride",
        "offset",
        "error before, px",
        "after, px",
        "less than at the convention, px",
        "IoU before",
        "after",
    ]
    return table(head, lines())


def _compared(
    rows: Sequence[Retrieval] | Sequence[Regression],
    offset: str,
    value: Callable[..., float],
    weight: Callable[..., float] | None,
) -> list[str]:
    """The mean of `value` at `offset`, and by how much it is below that at the convention."""
    own, conventional = ([row for row in rows if row.offset == name] for name in (offset, "convention"))
    weights = [1.0 if weight is None else weight(row) for row in own]
    gains = [value(other) - value(row) for row, other in zip(own, conventional, strict=True)]
    return [_shown([value(row) for row in own], weights), "" if offset == "convention" else _shown(gains, weights)]


def _offsets_table(halves: Sequence[Offsets], chips: Offsets) -> str:
    def shown(offset: tuple[float, float]) -> str:
        return f"{offset[0]:.2f}, {offset[1]:.2f}"

    lines = [
        [str(stride), *(shown(halves[0][name][str(stride)]) for name in OFFSETS[:3])]
        + [shown(each["calibrated"][str(stride)]) for each in (*halves, chips)]
        for stride in STRIDES
    ]
    head = ["stride", *OFFSETS[:3], "calibrated on one half", "on the other", "on the chips"]
    return "The offsets (y, x) in pixels:\n\n" + table(head, lines)


def page(
    retrievals: Sequence[Retrieval],
    regressions: Sequence[Regression],
    offsets: tuple[Sequence[Offsets], Offsets],
    chips: Sequence[Chip],
    facts: Mapping[str, object],
) -> str:
    """All of the results as Markdown."""
    trees = sum(len(chip.boxes_xyxy) for chip in chips)
    counts = {"boxes": trees * JITTERS, "trees": trees, "jitters": JITTERS, "chips": len(chips), "folds": FOLDS}
    photographs = 1 + max(row.photograph for row in retrievals)
    parts = [
        _HEAD.format(**facts, unit_1="photographs", unit_2="chips"),
        _offsets_table(*offsets),
        _RETRIEVAL.format(photographs=photographs, queries=QUERIES),
        _retrieval_table(retrievals),
        _REGRESSION.format(**counts),
        _regression_table(regressions),
    ]
    return "\n".join(parts)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    begin = time.monotonic()
    network = efficientnet_lite0()
    print("retrieval ...", flush=True)
    retrievals, halves = run_retrieval(network, load_photographs())
    print(_retrieval_table(retrievals), f"[{time.monotonic() - begin:.0f} s] regression ...", sep="\n", flush=True)
    chips = chips_of(load_trees())
    step = -(-len(chips) // MOST_CHIPS_TO_CALIBRATE)
    offsets = offsets_of(network, [as_input(chip) for chip in chips[::step]])
    regressions = list(regress(network, chips, offsets, seed=0))
    facts = facts_of("benchmarks.localisation", begin)
    records = [{"test": "retrieval", **asdict(row)} for row in retrievals]
    records += [{"test": "regression", **asdict(row)} for row in regressions]
    names = list(dict.fromkeys(name for record in records for name in record))
    machine = environment()
    rows = [{**{name: record.get(name, "") for name in names}, **machine} for record in records]
    contents = {
        "localisation.md": page(retrievals, regressions, (halves, offsets), chips, facts),
        "localisation.csv": records_as_csv(rows),
    }
    write_all(RESULTS, {name: text.encode() for name, text in contents.items()})
    print(f"[{time.monotonic() - begin:.0f} s] written to {RESULTS}: {', '.join(contents)}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
