"""torchvision's detectors before and after `upgrade`: verified first, then timed in turn. Run by `make bench-models`.

On the demo's photographs, with random weights, with a seed: detections are let through whatever their score, so that
masks and keypoints are pooled, too. Writes a page and a table to benchmarks/results/; with
--quick or --only the results are not complete, and go to a temporary folder.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection

from roialign.integrations.torchvision import upgrade
from roialign.ops import backends

from .enable import FULL, QUICK, target_of
from .environment import Neighbours, environment
from .implementations import ROIALIGN, TORCHVISION, Call
from .photographs import as_tensor, load_trees
from .report import provenance, spread, table
from .results import ModelRow, as_csv, write_all
from .timing import Budget, time_in_turn

RESULTS = Path(__file__).parent / "results"
_PHOTOGRAPHS = 3
BUILDERS = {
    "Faster R-CNN": detection.fasterrcnn_resnet50_fpn,
    "Faster R-CNN v2": detection.fasterrcnn_resnet50_fpn_v2,
    "Mask R-CNN": detection.maskrcnn_resnet50_fpn,
    "Keypoint R-CNN": detection.keypointrcnn_resnet50_fpn,
}
BOX_PX, SCORE, LOSS = 1e-3, 1e-5, 1e-4  # the most that boxes, scores and losses (of their value) may differ by
_NOTES = """\
Milliseconds in float32, on photographs of trees, 400 x 400 twice and 1035 x 1249, which the models resize: median
(first to third quartile). Both in turn, in one process. Before timing, detections and losses of both were compared; the
labels are the same.
"""


def photographs(quick: bool) -> list[Tensor]:
    """[3, H, W], between 0 and 1."""
    found = [as_tensor(trees.photograph) for trees in load_trees()[:_PHOTOGRAPHS]]
    return [pixels[:, ::4, ::4] if quick else pixels for pixels in found]


def both(build: Callable[..., nn.Module], quick: bool) -> dict[str, nn.Module]:
    """A model of the same weights as torchvision builds it, and upgraded."""
    sizes = {"min_size": 96, "max_size": 160} if quick else {}
    made = {}
    for name in (TORCHVISION, ROIALIGN):
        torch.manual_seed(0)
        made[name] = build(weights=None, weights_backbone=None, box_score_thresh=0.0, **sizes)
    upgrade(made[ROIALIGN])
    return made


def inference(model: nn.Module, images: list[Tensor]) -> Call:
    """The detections of one image after the other."""

    def infer() -> list[Tensor]:
        model.eval()
        with torch.no_grad():
            found = [model([image])[0] for image in images]
        return [one[key] for one in found for key in ("boxes", "scores", "labels")]

    return infer


def training_step(model: nn.Module, images: list[Tensor]) -> Call:
    """The losses and their gradients, without the optimizer's step, for the first image; gives the losses."""
    height, width = images[0].shape[1:]
    target = target_of((int(height), int(width)))

    def step() -> list[Tensor]:
        model.train()
        torch.manual_seed(1)  # the proposals to learn from are drawn
        model.zero_grad()
        losses = list(model([images[0]], [target]).values())
        torch.stack(losses).sum().backward()
        return [one.detach() for one in losses]

    return step


def verify(detections: dict[str, Call], steps: dict[str, Call]) -> tuple[float, float, float]:
    """How far boxes, scores and losses are off; raises where that is too far, or where labels differ."""
    wanted, found = detections[TORCHVISION](), detections[ROIALIGN]()
    if any(not torch.equal(one, other) for one, other in zip(found[2::3], wanted[2::3], strict=True)):
        raise SystemExit("the upgraded model gives other labels, so nothing is timed")
    boxes, scores = (
        max(float((one - other).abs().max()) for one, other in zip(found[kind::3], wanted[kind::3], strict=True))
        for kind in (0, 1)
    )
    losses = zip(steps[ROIALIGN](), steps[TORCHVISION](), strict=True)
    loss = max(float((one - other).abs() / other.abs().clamp(min=1e-3)) for one, other in losses)
    if boxes > BOX_PX or scores > SCORE or loss > LOSS:
        raise SystemExit(
            f"the upgraded model is off: boxes by {boxes:.2g} px, scores by {scores:.2g}, losses {loss:.2g}"
        )
    return boxes, scores, loss


def measure(name: str, budget: Budget, quick: bool) -> Iterator[ModelRow]:
    """The times of an inference and of a training step."""
    models, images = both(BUILDERS[name], quick), photographs(quick)
    detections = {key: inference(model, images) for key, model in models.items()}
    steps = {key: training_step(model, images) for key, model in models.items()}
    boxes, scores, loss = verify(detections, steps)
    text = f"boxes off by at most {boxes:.1g} px, scores by {scores:.1g}, losses by {loss:.1g} of their value"
    for pass_, calls in ((f"inference, {_PHOTOGRAPHS} images", detections), ("training step, one image", steps)):
        for key, times in time_in_turn(calls, budget).items():
            yield ModelRow(name, text, pass_, torch.get_num_threads(), key, math.nan, times)


def page(rows: Sequence[ModelRow]) -> str:
    """All models, and how many times as fast they are."""
    lines = []
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        faster = f"{before.times.median_ms / after.times.median_ms:.2f}x"
        lines.append([after.model, after.pass_, spread(before.times), spread(after.times), faster])
    differences = dict.fromkeys(f"- {row.model}: {row.description}\n" for row in rows)
    head = ["model", "pass", TORCHVISION, "after upgrade()", "times as fast"]
    return f"{_NOTES}\n{''.join(differences)}\n{table(head, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrade", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, few repeats: only to see that it runs")
    parser.add_argument("--only", help="measure only models whose name contains this")
    arguments = parser.parse_args()
    if backends.of_device("cpu") is None:
        raise SystemExit(f"nothing to measure: {backends.BACKENDS[0].why_not}")
    where, neighbours = environment(), Neighbours()
    rows: list[ModelRow] = []
    for name in BUILDERS:
        if arguments.only is None or arguments.only in name:
            rows += measure(name, QUICK if arguments.quick else FULL, arguments.quick)
            print(name, flush=True)
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    complete = not arguments.quick and arguments.only is None
    folder = RESULTS if complete else Path(tempfile.mkdtemp(prefix="roialign-benchmark-"))
    text = f"# Detectors before and after upgrade()\n\n{provenance(where, 'make bench-models')}\n{page(rows)}"
    write_all(folder, {"upgrade.md": text.encode(), "upgrade.csv": as_csv(rows, where).encode()})
    print(f"written to {folder}: upgrade.csv, upgrade.md")


if __name__ == "__main__":
    main()
