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
from torchvision.ops import roi_align

import roialign
from roialign.doctor.watch.examiner import Examiner

from .environment import Neighbours, environment
from .photographs import as_tensor
from .results import write_all

RESULTS = Path(__file__).parent / "results"
PHOTOGRAPH = "coffee.png"
TARGET_PERCENT = 1.0
TARGET_SMALL_MS = 2.0


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
    """One inference without and one with the watch, right after it; each watch is a new one."""

    unwatched_ms: float
    watched_ms: float
    looks_ms: list[float]


def measure(model: nn.Module, images: list[Tensor], repeats: int) -> tuple[list[Run], roialign.Report]:
    """Inferences in turn, and what the last watch saw."""

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


def later_looks_ms(model: nn.Module, images: list[Tensor], inferences: int) -> list[list[float]]:
    """The milliseconds of each look in inferences that one watch sees, the first left out."""
    looks = []
    with roialign.watch(), torch.no_grad():
        for _ in range(inferences):
            with _timed_calls() as looks_ms:
                model(images)
            looks.append(looks_ms)
    return looks[1:]


def small_calls_ms(calls: int) -> list[float]:
    """The milliseconds of each look at calls on a small map of a network that was seen, with 8 boxes each."""
    torch.manual_seed(0)
    network, image = nn.Conv2d(3, 256, 16, 16), photograph()[None]
    height, width = image.shape[2:]
    with roialign.watch(), torch.no_grad(), _timed_calls() as looks_ms:
        features = network(image)
        for _ in range(calls):
            sides = 20 + 130 * torch.rand(8, 2)
            corners = torch.rand(8, 2) * (torch.tensor([width, height]) - sides)
            roi_align(features, [torch.cat([corners, corners + sides], 1)], 7, 1 / 16, 2, True)
    return looks_ms


def _quartiles(values: Sequence[float], digits: int) -> str:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f} ({q1:.{digits}f} to {q3:.{digits}f})"


def _page(
    where: dict[str, str],
    runs: list[Run],
    report: roialign.Report,
    later: list[list[float]],
    small_ms: list[float],
    modules: int,
    modules_ms: list[float],
) -> str:
    height, width = photograph().shape[1:]
    unwatched_ms = statistics.median(run.unwatched_ms for run in runs)
    shares = [100 * (sum(looks) + statistics.median(modules_ms)) / unwatched_ms for looks in later]
    first = [statistics.median(times) for times in zip(*(run.looks_ms for run in runs), strict=True)]
    per_call = [statistics.mean(times) for times in zip(*later, strict=True)]
    versions = ", ".join(f"{name} {where[name]}" for name in ("roialign", "torch", "torchvision"))
    versions += f", commit {where['commit']}"
    calls = "\n".join(
        f"| {list(diagnosis.call.features_shape)} | {len(diagnosis.call.rois)} | {first_ms:.1f} | {later_ms:.1f} |"
        for diagnosis, first_ms, later_ms in zip(report.calls, first, per_call, strict=True)
        if diagnosis.call is not None
    )
    return f"""\
# What watching costs

Made by `make bench-overhead`; do not edit it.

- Machine: {where["cpu"]}, {where["machine"]}
- Versions: {versions}
- Day: {where["date"]}; other processes kept {where["cpus_used_by_others"]} CPUs busy while it was timed

torchvision's `maskrcnn_resnet50_fpn` on a photograph of {height} x {width}, {torch.get_num_threads()} threads, random
weights (seed 0), about 1000 proposals and 100 detections. Unwatched inferences and the first ones of {len(runs)}
watches in turn, with the same detections; then {len(later) + 1} inferences in one watch. In the first inference of a
watch the backbone is traced, once; in later ones a line of code is weighed less often the longer nothing was wrong with
it. Median (first to third quartile):

| | |
| --- | --- |
| inference, unwatched | {_quartiles([run.unwatched_ms for run in runs], 0)} ms |
| the first one of a watch | {_quartiles([run.watched_ms for run in runs], 0)} ms |
| of that, the trace and looking at its {len(first)} calls | {_quartiles([sum(run.looks_ms) for run in runs], 0)} ms |
| later ones: looking at the calls | {_quartiles([sum(looks) for looks in later], 1)} ms |
| later ones: seeing {modules} modules called | {_quartiles(modules_ms, 1)} ms |
| later ones: share of both in the inference | {_quartiles(shares, 2)} %, mean {statistics.mean(shares):.2f} %, \
the target is {TARGET_PERCENT:g} % |
| problems found | {len(report.findings)} |

| features | boxes | looking at the call, ms: first inference, median | later ones, mean |
| --- | --- | --- | --- |
{calls}

Calls on a small map ([1, 256, {height // 16}, {width // 16}], 8 boxes, other ones in each call): looking at the first \
takes
{small_ms[0]:.1f} ms, trace included, at the next three {_quartiles(small_ms[1:4], 1)} ms, at {len(small_ms) - 4} more
{_quartiles(small_ms[4:], 1)} ms, on average {statistics.mean(small_ms[4:]):.1f}; the target is {TARGET_SMALL_MS:g} ms.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="watches, and unwatched inferences")
    parser.add_argument("--inferences", type=int, default=21, help="in one watch")
    given = parser.parse_args()
    where, neighbours = environment(), Neighbours()
    model, images = mask_rcnn(), [photograph()]
    runs, report = measure(model, images, given.repeats)
    later = later_looks_ms(model, images, given.inferences)
    modules, modules_ms = module_calls_ms(model, images, given.repeats)
    small_ms = small_calls_ms(100)
    where["cpus_used_by_others"] = f"{neighbours.cpus():.2f}"
    page = _page(where, runs, report, later, small_ms, modules, modules_ms)
    write_all(RESULTS, {"overhead.md": page.encode()})
    print(page)


if __name__ == "__main__":
    main()
