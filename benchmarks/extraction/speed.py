"""How fast `extract` is: against a plain script, the backbone alone, and embedding crops; and with other workers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from roialign.extraction import open as open_store

from .child import in_child
from .contenders import GRID, model_of
from .kept import Kept
from .sets import Boxed

BACKBONES = "torchvision/resnet18", "timm/tf_efficientnet_lite0"
CORES = os.cpu_count() or 1
PART = 16  # images, one batch
CROP_PX = 224
EXTRACT, IN_PARTS, OF_GRID = "extract()", f"extract(), parts of {PART} images", "extract(), 20 boxes an image"
PLAIN, ALONE = "plain script", "backbone alone"
CROPS, SMALL_CROPS = "20 crops an image, of its size", f"20 crops an image, {CROP_PX} px"
_VERIFIED = 4  # images
_TOLERANCE = 1e-4  # of the largest feature
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    images: int | None  # of each set; None for all
    swept: int  # images, with each number of workers
    cropped: int  # images, whose crops are embedded
    rounds: int
    least_s: float  # of the backbone alone


@dataclass(frozen=True)
class Case:
    """A set and a backbone, and the file of its weights."""

    boxed: Boxed
    backbone: str
    weights: Path
    scratch: Path

    def call(self, function: str, boxed: Boxed | None = None, threads: int | None = None, **options: Any) -> Row:
        """A contender, in a process of its own, which writes to a new folder."""
        boxed, out = boxed or self.boxed, self.scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        given = {"photos": str(boxed.photos), "weights": str(self.weights), "out": str(out)}
        given |= {"backbone": self.backbone, "size_hw": boxed.size_hw}
        return in_child(f"contenders.{function}", threads, **{**given, **options})

    def extract(self, boxed: Boxed | None = None, threads: int | None = None, **options: Any) -> Row:
        notes = str((boxed or self.boxed).annotations)
        return self.call("extracted", boxed, threads, **{"boxes": notes, **options})

    def alone(self, least_s: float, processes: int, threads: int, batch: int) -> Row:
        """The backbone on tensors in memory."""
        given = {"backbone": self.backbone, "weights": str(self.weights), "size_hw": self.boxed.size_hw}
        options = {"processes": processes, "threads": threads, "batch": batch, "least_s": least_s}
        return in_child("contenders.in_memory", **given, **options)


def speeds(boxed: list[Boxed], sizes: Sizes, kept: Kept, scratch: Path) -> Iterator[Row]:
    """Of all sets and backbones, each contender in each round."""
    for one, backbone in product(boxed, BACKBONES):
        name = f"{one.name.lower().replace(' ', '-')}-{backbone.partition('/')[2]}"
        used = one if sizes.images is None else one.some(scratch / "some", sizes.images)
        case = _case(used, backbone, scratch)
        agreement = kept.result(f"{name}/agreement", {}, partial(verify, case))
        best = kept.result(f"{name}/settings", {"least_s": sizes.least_s}, partial(_best_alone, case, sizes.least_s))
        contenders = _contenders(case, best, sizes)
        for number in range(sizes.rounds):
            order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
            for contender in order:
                asked = {"images": len(used.paths()), "cropped": sizes.cropped, "least_s": sizes.least_s, "best": best}
                found = kept.result(f"{name}/{contender} {number}", asked, contenders[contender])
                rate = found["images"] / found["seconds"]
                row = {"set": one.name, "backbone": backbone, "contender": contender, "round": number, **found}
                print(f"  {rate:.2f} images/s", flush=True)
                setting = "{processes} x {threads} threads, batch {batch}".format(**best)
                yield {**row, "images_per_s": rate, "setting_alone": setting, "largest_difference": agreement}


def sweep(boxed: Boxed, sizes: Sizes, kept: Kept, scratch: Path) -> Iterator[Row]:
    """`extract` with other numbers of workers, threads and decoding threads, all in turn in each round."""
    case = _case(boxed.some(scratch / "swept", sizes.swept), BACKBONES[0], scratch)
    settings = [(CORES, 1, 1), (CORES, 1, 2), (1, CORES, CORES), (1, CORES, 1), (CORES, CORES, 1), (2 * CORES, 1, 1)]
    for number in range(sizes.rounds):
        for workers, threads, decoders in settings:
            options = {"workers": workers, "decoders": decoders, "images_per_part": PART}
            make = partial(case.extract, threads=workers * threads, **options)
            name = f"sweep/{workers} workers, {threads} threads, {decoders} decoding {number}"
            found = kept.result(name, {"images": sizes.swept}, make)
            rate = found["images"] / found["seconds"]
            print(f"  {rate:.2f} images/s", flush=True)
            setting = {"workers": workers, "threads": threads, "decoders": decoders, "round": number}
            yield {"set": boxed.name, "backbone": BACKBONES[0], **setting, **found, "images_per_s": rate}


def verify(case: Case) -> float:
    """The largest difference between the features of the plain script and of `extract`, of some images.

    Raises:
        SystemExit: if they do not agree.
    """
    few = case.boxed.some(case.scratch / "few", _VERIFIED)
    scripted = case.scratch / "scripted"
    shutil.rmtree(scripted, ignore_errors=True)
    case.call("plain", few, annotations=str(few.annotations), out=str(scripted))
    case.extract(few, dtype="float32", workers=1)
    regions = open_store(case.scratch / "out")
    worst = 0.0
    for path in few.paths():
        expected = torch.load(scripted / f"{path.stem}.pt")
        found = regions.of_image(path.name)
        if not torch.equal(found.boxes_xyxy, expected["boxes"]):
            raise SystemExit(f"expected the boxes of {path.name} that the plain script reads; got others")
        scale = float(expected["features"].abs().max())
        worst = max(worst, float((found.features - expected["features"]).abs().max()) / scale)
    if worst > _TOLERANCE:
        raise SystemExit(f"expected features of {case.backbone} within {_TOLERANCE} of the largest; got {worst:.2g}")
    return worst


def _case(boxed: Boxed, backbone: str, scratch: Path) -> Case:
    weights = scratch / f"{backbone.replace('/', '-')}.pt"
    if not weights.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        torch.save(model_of(backbone).state_dict(), weights)
    return Case(boxed, backbone, weights, scratch)


def _best_alone(case: Case, least_s: float) -> Mapping[str, int]:
    """The setting with which the backbone alone is fastest."""
    found: list[tuple[float, Mapping[str, int]]] = []
    for (processes, threads), batch in product(sorted({(1, CORES), (CORES, 1)}), (1, 4, 16)):
        setting = {"processes": processes, "threads": threads, "batch": batch}
        row = case.alone(least_s, **setting)
        found.append((row["images"] / row["seconds"], setting))
        print(f"  {ALONE}, {setting}: {found[-1][0]:.2f} images/s", flush=True)
    return max(found, key=lambda one: one[0])[1]


def _contenders(case: Case, best: Mapping[str, int], sizes: Sizes) -> Mapping[str, Callable[[], Row]]:
    few = case.boxed.some(case.scratch / "cropped", sizes.cropped)
    return {
        EXTRACT: case.extract,
        PLAIN: partial(case.call, "plain", annotations=str(case.boxed.annotations)),
        IN_PARTS: partial(case.extract, images_per_part=PART),
        ALONE: partial(case.alone, sizes.least_s, **best),
        OF_GRID: partial(case.extract, boxes=GRID, images_per_part=PART),
        CROPS: partial(case.call, "crops", few),
        SMALL_CROPS: partial(case.call, "crops", few, size_hw=(CROP_PX, CROP_PX)),
    }
