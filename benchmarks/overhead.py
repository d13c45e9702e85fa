"""What `roialign.watch` costs: torchvision's Mask R-CNN on a photograph, watched and unwatched in turn.

Run by `make bench-overhead`. The weights are random, with a seed: the region proposal network then gives as many boxes
as it ever does, 1000, and the detections are let through whatever their score, so that the masks are pooled, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

import roialign
from roialign.doctor.watch.examiner import Examiner

from .environment import Neighbours, environment
from .photographs import as_tensor
from .results import write_all

RESULTS = Path(__file__).parent / "results"
PHOTOGRAPH = "coffee.png"
TARGET_PERCENT = 1.0


def mask_rcnn() -> nn.Module:
    """Mask R-CNN with ResNet-50 and FPN, random weights, that keeps 100 detections."""
    torch.manual_seed(0)
    model: nn.Module = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0.0)
    return model.eval()


def photograph() -> Tensor:
    """[3, H, W] in [0, 1]."""
    return as_tensor(Image.open(str(files("skimage") / "data" / PHOTOGRAPH)).convert("RGB"))


@contextmanager
def _timed_calls() -> Iterator[list[float]]:
    """The milliseconds that each look at a call takes."""
    times_ms: list[float] = []
    see: Callable[..., None] = Examiner.see

    def timed(*args: object) -> None:
        begin = time.perf_counter()
        see(*args)
        times_ms.append(1000 * (time.perf_counter() - begin))

    with mock.patch.object(Examiner, "see", timed):
        yield times_ms


def module_calls_ms(model: nn.Module, images: list[Tensor], repeats: int) -> tuple[int, list[float]]:
    """How many modules an inference calls, and the milliseconds that the watch adds to so many calls of a module.

    The calls are those of a module that does nothing to a map, outside of any other, where the watch looks closest.
    """
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    hook = nn.modules.module.register_module_forward_hook(note)
    with torch.no_grad():
        model(images)
    hook.remove()
    nothing, values = nn.Identity(), torch.rand(1, 256, 200, 304)

    def call_ms() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            nothing(values)
        return 1000 * (time.perf_counter() - begin)

    added = []
    for _ in range(repeats):
        plain = call_ms()
        with roialign.watch():
            added.append(call_ms() - plain)
    return count, added


@dataclass(frozen=True)
class Run:
    """One inference without and one with the watch, right after it."""

    unwatched_ms: float
    watched_ms: float
    looks_ms: list[float]


def measure(model: nn.Module, images: list[Tensor], repeats: int) -> tuple[list[Run], roialign.Report]:
    """Inferences in turn, and what the watch saw."""

    def infer() -> tuple[list[dict[str, Tensor]], float]:
        begin = time.perf_counter()
        with torch.no_grad():
            found: list[dict[str, Tensor]] = model(images)
        return found, 1000 * (time.perf_counter() - begin)

    runs = []
    for _ in range(repeats + 1):
        expected, unwatched_ms = infer()
        with roialign.watch() as report, _timed_calls() as looks_ms:
            found, watched_ms = infer()
        runs.append(Run(unwatched_ms, watched_ms, looks_ms))
        for one, other in zip(expected, found, strict=True):
            if not all(torch.equal(one[name], other[name]) for name in one):
                raise SystemExit("the watched model finds other things than the unwatched one, so nothing is said")
    return runs[1:], report  # the first to warm up


def _quartiles(values: Sequence[float], digits: int) -> str:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f} ({q1:.{digits}f} to {q3:.{digits}f})"


def _page(
    where: dict[str, str], runs: list[Run], report: roialign.Report, modules: int, modules_ms: list[float]
) -> str:
    height, width = photograph().shape[1:]
    of_modules_ms = statistics.median(modules_ms)
    shares = [100 * (sum(run.looks_ms) + of_modules_ms) / run.unwatched_ms for run in runs]
    per_call = [statistics.median(times) for times in zip(*(run.looks_ms for run in runs), strict=True)]
    versions = ", ".join(f"{name} {where[name]}" for name in ("roialign", "torch", "torchvision"))
    versions += f", commit {where['commit']}"
    calls = "\n".join(
        f"| {list(diagnosis.call.features_shape)} | {len(diagnosis.call.rois)} | {ms:.1f} |"
        for diagnosis, ms in zip(report.calls, per_call, strict=True)
        if diagnosis.call is not None
    )
    return f"""\
# What watching costs

Made by `make bench-overhead`; do not edit it.

- Machine: {where["cpu"]}, {where["machine"]}
- Versions: {versions}
- Day: {where["date"]}; other processes kept {where["cpus_used_by_others"]} CPUs busy while it was timed

torchvision's `maskrcnn_resnet50_fpn` on a photograph of {height} x {width}, {torch.get_num_threads()} threads, random
weights (seed 0), about 1000 proposals and 100 detections. Watched and unwatched inferences in turn, {len(runs)} of
each, with the same detections. Median (first to third quartile):

| | |
| --- | --- |
| inference, unwatched | {_quartiles([run.unwatched_ms for run in runs], 0)} ms |
| inference, watched | {_quartiles([run.watched_ms for run in runs], 0)} ms |
| of that, looking at its {len(per_call)} calls | {_quartiles([sum(run.looks_ms) for run in runs], 1)} ms |
| of that, seeing {modules} modules called | {_quartiles(modules_ms, 1)} ms |
| share of both in the inference | {_quartiles(shares, 2)} %, the target is {TARGET_PERCENT:g} % |
| problems found | {len(report.findings)} |

| features | boxes | looking at the call, ms |
| --- | --- | --- |
{calls}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    where, neighbours = environment(), Neighbours()
    model, images = mask_rcnn(), [photograph()]
    runs, report = measure(model, images, repeats)
    modules, modules_ms = module_calls_ms(model, images, repeats)
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    page = _page(where, runs, report, modules, modules_ms)
    write_all(RESULTS, {"overhead.md": page.encode()})
    print(page)


if __name__ == "__main__":
    main()
