"""What is timed against each other; each is called in a process of its own, from `speed`."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

GRID = "grid:4x5"  # 20 boxes of each image
_MEAN_STD = {"torchvision": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), "timm": ([0.5] * 3, [0.5] * 3)}
_STRIDE, _BINS = 32, 7


def model_of(backbone: str, weights: str | None = None) -> Any:
    """The whole model, as users make it: random weights of seed 0 without a file."""
    import timm
    import torch
    import torchvision

    library, _, name = backbone.partition("/")
    torch.manual_seed(0)
    model = (
        torchvision.models.get_model(name, weights=None)
        if library == "torchvision"
        else timm.create_model(name, features_only=True)
    )
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def maps_of(backbone: str, weights: str) -> Callable[[Any], Any]:
    """From images to the last map, of stride 32."""
    from torchvision.models.feature_extraction import create_feature_extractor

    model = model_of(backbone, weights)
    if backbone.startswith("torchvision/"):
        inner = create_feature_extractor(model, {"layer4": "map"})
        return lambda images: inner(images)["map"]
    return lambda images: model(images)[-1]


def plain(
    photos: str, annotations: str, backbone: str, weights: str, size_hw: Sequence[int], out: str
) -> dict[str, Any]:
    """The script that users write: an image at a time, torch's threads as they are. Making the model is not timed."""
    import torch
    import torchvision
    from PIL import Image
    from torchvision import transforms

    from .sets import voc_boxes

    maps = maps_of(backbone, weights)
    mean, std = _MEAN_STD[backbone.partition("/")[0]]
    prepare = transforms.Compose(
        [transforms.ToTensor(), transforms.Resize(list(size_hw), antialias=True), transforms.Normalize(mean, std)]
    )
    Path(out).mkdir(parents=True)
    paths = sorted(Path(photos).iterdir())
    begin = time.perf_counter()
    for path in paths:
        image = Image.open(path).convert("RGB")
        boxes, labels = voc_boxes(Path(annotations) / f"{path.stem}.xml")
        scaled = boxes * torch.tensor([size_hw[1] / image.width, size_hw[0] / image.height] * 2)
        with torch.no_grad():
            features = maps(prepare(image)[None])
            pooled = torchvision.ops.roi_align(features, [scaled], _BINS, spatial_scale=1 / _STRIDE, aligned=True)
            vectors = pooled.mean((2, 3))
        torch.save({"boxes": boxes, "labels": labels, "features": vectors}, Path(out) / f"{path.stem}.pt")
    return {"begin_s": 0.0, "seconds": time.perf_counter() - begin, "images": len(paths)}


def crops(photos: str, backbone: str, weights: str, size_hw: Sequence[int], out: str) -> dict[str, Any]:
    """Each of the 20 boxes of a grid is cut out, resized to the network's input and embedded, in a batch of 20."""
    import torch
    from PIL import Image
    from torchvision import transforms

    maps = maps_of(backbone, weights)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*_MEAN_STD[backbone.partition("/")[0]])])
    rows, columns = 4, 5
    Path(out).mkdir(parents=True)
    paths = sorted(Path(photos).iterdir())
    begin = time.perf_counter()
    for path in paths:
        image = Image.open(path).convert("RGB")
        across, down = image.width / columns, image.height / rows
        boxes = [
            (round(x * across), round(y * down), round((x + 1) * across), round((y + 1) * down))
            for y in range(rows)
            for x in range(columns)
        ]
        batch = torch.stack([prepare(image.crop(box).resize((size_hw[1], size_hw[0]))) for box in boxes])
        with torch.no_grad():
            vectors = maps(batch).mean((2, 3))
        torch.save({"boxes": boxes, "features": vectors}, Path(out) / f"{path.stem}.pt")
    return {"begin_s": 0.0, "seconds": time.perf_counter() - begin, "images": len(paths)}


def in_memory(
    backbone: str, weights: str, size_hw: Sequence[int], batch: int, processes: int, threads: int, least_s: float
) -> dict[str, Any]:
    """The backbone alone, on tensors that are in memory already, in so many processes at once."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    given = (backbone, weights, tuple(size_hw), batch, threads, least_s, barrier, found)
    started = [context.Process(target=_embed, args=given) for _ in range(processes)]
    for process in started:
        process.start()
    rate = sum(found.get() for _ in started)
    for process in started:
        process.join()
    return {"begin_s": 0.0, "seconds": least_s, "images": rate * least_s}


def _embed(
    backbone: str,
    weights: str,
    size_hw: tuple[int, int],
    batch: int,
    threads: int,
    least_s: float,
    barrier: Any,
    found: Any,
) -> None:
    """Puts images a second into `found`, counted in whole batches until `least_s` are over."""
    import torch

    torch.set_num_threads(threads)
    maps, images = maps_of(backbone, weights), torch.rand(batch, 3, *size_hw)
    with torch.inference_mode():
        maps(images)
        barrier.wait()
        done, begin = 0, time.perf_counter()
        while (taken := time.perf_counter() - begin) < least_s:
            maps(images)
            done += batch
    found.put(done / taken)


def extracted(
    photos: str,
    boxes: str,
    backbone: str,
    weights: str,
    size_hw: Sequence[int],
    out: str,
    decoders: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`extract`; `begin_s` goes by before the first image is read, `seconds` from then until all parts are written."""
    from roialign.extraction import extract, local

    run, noted = local.run, list[float]()

    def timed(job: Any, todo: Any, note: Any, *others: Any) -> None:
        def noting(step: Any) -> None:
            noted.append(time.perf_counter())
            note(step)

        run(job if decoders is None else replace(job, decoders=decoders), todo, noting, *others)
        noted.append(time.perf_counter())

    local.run = timed
    begin = time.perf_counter()
    options = {"resize": (size_hw[0], size_hw[1]), "quiet": True, "pretrained": False, **options}
    regions = extract(photos, boxes=boxes, backbone=backbone, weights=weights, out=out, **options)
    if failed := [error for error in regions.errors() if error.code != "NoBoxes"]:
        sys.exit(f"expected no errors; got {len(failed)}, the first {failed[0]}")
    return {
        "begin_s": noted[0] - begin,
        "seconds": noted[-1] - noted[0],
        "images": regions.manifest.image_count,
        "boxes": len(regions),
    }
