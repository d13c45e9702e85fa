"""Whole models with and without `roialign.enable()`: verified first, then timed in turn. Run by `make bench-models`.

The weights are random, with a seed: the region proposal network then gives as many boxes as it ever does, 1000 in an
inference, and the detections are let through whatever their score, so that masks and keypoints are pooled, too.
Writes a page and a table to benchmarks/results/; with --quick or --only the results are not complete, and go to a
temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from transformers.models.sam3.configuration_sam3 import Sam3GeometryEncoderConfig
from transformers.models.sam3.modeling_sam3 import Sam3GeometryEncoder

import roialign
from roialign.ops import backends
from roialign.ops.overrides import Overrides, serving

from .environment import Neighbours, environment
from .implementations import ROIALIGN, TORCHVISION, Call
from .report import provenance, spread, table
from .results import ModelRow, as_csv, write_all
from .timing import Budget, time_in_turn

RESULTS = Path(__file__).parent / "results"
FULL, QUICK = Budget(least_repeats=5, seconds=20.0), Budget(least_repeats=2, seconds=0.0)
SIZE_HW, SMALL_HW = (480, 640), (96, 128)
TOLERANCE = 1e-4  # of the largest value: what layers make of differences in the last bits
_ROI_OPERATORS = ("roi_align", "_roi_align_backward")
_INFERENCE, _STEP = "inference", "training step"
_NOTES = """\
Milliseconds of the whole model in float32: median (first to third quartile). Both in turn, in one process; the share is
that of torchvision's RoI operators, forward and backward, in a run of the model. Before timing, the results of both
were compared: the features of the first pooling, the losses of a training step, the output of an encoder.
"""


@dataclass(frozen=True)
class Program:
    """A model, as a call of it that gives what is to be the same in both."""

    model: str
    description: str
    pass_: str
    make: Callable[[], Call]


def detectors(size_hw: tuple[int, int]) -> Iterator[Program]:
    """torchvision's, on images of one size."""
    image = f"one image of {size_hw[0]} x {size_hw[1]}, which they resize to a shorter side of 800"
    if size_hw == SMALL_HW:
        image = f"one image of {size_hw[0]} x {size_hw[1]}"
    builders = {
        "Faster R-CNN": fasterrcnn_resnet50_fpn,
        "Mask R-CNN": maskrcnn_resnet50_fpn,
        "Keypoint R-CNN": keypointrcnn_resnet50_fpn,
    }
    for name, build in builders.items():
        text = f"torchvision's {build.__name__}, {image}"
        yield Program(name, text, _INFERENCE, lambda build=build: inference(build, size_hw))
        yield Program(name, text, _STEP, lambda build=build: training_step(build, size_hw))
    name, text = "Faster R-CNN, channels_last", f"torchvision's fasterrcnn_resnet50_fpn in channels_last, {image}"
    build = fasterrcnn_resnet50_fpn
    yield Program(name, text, _INFERENCE, lambda: inference(build, size_hw, torch.channels_last))


def encoders(size_hw: tuple[int, int]) -> Iterator[Program]:
    """The part of transformers' SAM 3 that pools: its encoder of box prompts."""
    cells = 72 if size_hw == SIZE_HW else 9
    for boxes in (1, 16, 100):
        text = f"transformers' Sam3GeometryEncoder on a map of 256 x {cells} x {cells}, {boxes} box prompts"
        yield Program(f"SAM 3's box prompts, {boxes}", text, _INFERENCE, lambda n=boxes: prompts(n, cells))


def _model(
    build: Callable[..., nn.Module], size_hw: tuple[int, int], layout: torch.memory_format
) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    sizes = {} if size_hw == SIZE_HW else {"min_size": size_hw[0], "max_size": size_hw[1]}
    model = build(weights=None, weights_backbone=None, box_score_thresh=0.0, **sizes)
    model = model.to(memory_format=layout)
    return model, torch.rand(3, *size_hw)


def inference(
    build: Callable[..., nn.Module], size_hw: tuple[int, int], layout: torch.memory_format = torch.contiguous_format
) -> Call:
    """An inference; gives the features of the proposals."""
    model, image = _model(build, size_hw, layout)
    model.eval()
    pooled: list[Tensor] = []
    model.roi_heads.box_roi_pool.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))

    def infer() -> list[Tensor]:
        pooled.clear()
        with torch.no_grad():
            model([image])
        return [*pooled]

    return infer


def target_of(size_hw: tuple[int, int]) -> dict[str, Tensor]:
    """Eight objects on an image of this size, with masks and keypoints, as torchvision's detectors take them."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(8, 2, generator=generator) * torch.tensor([0.6 * width, 0.6 * height])
    sizes = torch.tensor([0.1 * width, 0.1 * height]) * (1 + 2 * torch.rand(8, 1, generator=generator))
    boxes = torch.cat([corners, corners + sizes], 1)
    points = torch.cat([(boxes[:, :2] + boxes[:, 2:]).div(2)[:, None].expand(8, 17, 2), torch.ones(8, 17, 1)], 2)
    masks = torch.zeros(8, *size_hw, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.ones(8, dtype=torch.int64), "masks": masks, "keypoints": points}


def training_step(build: Callable[..., nn.Module], size_hw: tuple[int, int]) -> Call:
    """The losses and their gradients, without the optimizer's step; gives the losses."""
    model, image = _model(build, size_hw, torch.contiguous_format)
    model.train()
    target = target_of(size_hw)

    def step() -> list[Tensor]:
        torch.manual_seed(1)  # the proposals to learn from are drawn
        model.zero_grad()
        losses = list(model([image], [target]).values())
        torch.stack(losses).sum().backward()
        return [one.detach() for one in losses]

    return step


def prompts(count: int, cells: int) -> Call:
    """SAM 3's encoder of box prompts; gives its output."""
    torch.manual_seed(0)
    config = Sam3GeometryEncoderConfig()
    config._attn_implementation = "sdpa"
    encoder = Sam3GeometryEncoder(config).eval()
    features = torch.rand(1, config.hidden_size, cells, cells)
    boxes_cxcywh = 0.3 + 0.4 * torch.rand(1, count, 4)
    mask, labels = torch.ones(1, count, dtype=torch.bool), torch.ones(1, count, dtype=torch.int64)

    def encode() -> list[Tensor]:
        with torch.no_grad():
            return [encoder(boxes_cxcywh, mask, labels, (features,)).last_hidden_state]

    return encode


def within(implementation: str) -> AbstractContextManager[object]:
    """With `enable()` for roialign's."""
    return roialign.enable() if implementation == ROIALIGN else nullcontext()


def verify(call: Call) -> None:
    """Raise unless the model gives the same with both."""
    expected = call()
    with within(ROIALIGN):
        found = call()
    for actual, wanted in zip(found, expected, strict=True):
        if not torch.allclose(actual, wanted, rtol=0.0, atol=TOLERANCE * float(wanted.abs().max())):
            off = float((actual - wanted).abs().max())
            raise SystemExit(f"the model gives other values with enable(), off by {off:.3g}, so nothing is timed")


@contextmanager
def _timed_operators() -> Iterator[list[float]]:
    """The seconds that each call of what serves torchvision's operators takes."""
    seconds: list[float] = []
    overrides = Overrides("torchvision")
    for name in _ROI_OPERATORS:
        overrides.put(name, "CPU", _timed(serving(f"torchvision::{name}", "CPU"), seconds))
    try:
        yield seconds
    finally:
        overrides.remove()


def _timed(hidden: Any, seconds: list[float]) -> Callable[..., Any]:
    def kernel(keys: Any, *arguments: Any) -> Any:
        begin = time.perf_counter()
        found = hidden.call_boxed(keys, *arguments)
        seconds.append(time.perf_counter() - begin)
        return found

    return kernel


def roi_percent(call: Call) -> float:
    """The share of torchvision's RoI operators in a run."""
    with _timed_operators() as seconds:
        begin = time.perf_counter()
        call()
        return 100 * sum(seconds) / (time.perf_counter() - begin)


def measure(program: Program, budget: Budget) -> Iterator[ModelRow]:
    call = program.make()
    verify(call)
    shares = {}
    for name in (TORCHVISION, ROIALIGN):
        with within(name):
            shares[name] = roi_percent(call)
    for name, times in time_in_turn(dict.fromkeys(shares, call), budget, within).items():
        where = (program.model, program.description, program.pass_, torch.get_num_threads())
        yield ModelRow(*where, name, shares[name], times)


def page(rows: Sequence[ModelRow]) -> str:
    """All models, and how many times as fast they are."""
    lines = []
    for theirs, ours in zip(rows[::2], rows[1::2], strict=True):
        faster = f"{theirs.times.median_ms / ours.times.median_ms:.2f}x"
        shares = [f"{row.roi_percent:.1f} %" for row in (theirs, ours)]
        lines.append([ours.model, ours.pass_, spread(theirs.times), spread(ours.times), faster, *shares])
    head = ["model", "pass", TORCHVISION, "with enable()", "times as fast", "share of RoI operators", "with enable()"]
    descriptions = dict.fromkeys(f"- {row.model}: {row.description}\n" for row in rows)
    return f"{_NOTES}\n{''.join(descriptions)}\n{table(head, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enable", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, one repeat: only to see that it runs")
    parser.add_argument("--only", help="measure only models whose name contains this")
    arguments = parser.parse_args()
    if backends.of_device("cpu") is None:
        raise SystemExit(f"nothing to measure: {backends.BACKENDS[0].why_not}")
    where, neighbours = environment(), Neighbours()
    size_hw = SMALL_HW if arguments.quick else SIZE_HW
    programs = [*detectors(size_hw), *encoders(size_hw)]
    rows: list[ModelRow] = []
    for program in programs:
        if arguments.only is None or arguments.only in program.model:
            rows += measure(program, QUICK if arguments.quick else FULL)
            print(f"{program.model}, {program.pass_}", flush=True)
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    complete = not arguments.quick and arguments.only is None
    folder = RESULTS if complete else Path(tempfile.mkdtemp(prefix="roialign-benchmark-"))
    text = f"# Whole models with and without enable()\n\n{provenance(where, 'make bench-models')}\n{page(rows)}"
    write_all(folder, {"models.md": text.encode(), "models.csv": as_csv(rows, where).encode()})
    print(f"written to {folder}: models.csv, models.md")


if __name__ == "__main__":
    main()
