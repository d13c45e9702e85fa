"""Region features of a whole collection of images: the function behind `roialign extract`."""

from __future__ import annotations

import hashlib
import io
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TextIO, get_args

import torch
from torch import nn

from roialign.backbones.reading import upright_size_hw
from roialign.errors import OptionError, RoIError, SampleError
from roialign.extraction import local, progress
from roialign.extraction.boxes import Form, OpenBoxes, open_boxes
from roialign.extraction.check import check, sample_of
from roialign.extraction.decode import Decode
from roialign.extraction.images import list_images
from roialign.extraction.items import ImageRef
from roialign.extraction.packages import needed
from roialign.extraction.recipe import Fit, Job, Learned, Recipe, learn, versions
from roialign.extraction.report import save_report
from roialign.extraction.store.manifest import Manifest
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.reading import Regions
from roialign.extraction.store.reading import open as open_store
from roialign.extraction.store.rows import ErrorRow
from roialign.extraction.store.writing import writing
from roialign.extraction.work import Reduce
from roialign.geometry import Frame
from roialign.regions import RegionExtractor

Engine = Literal["local", "ray"]
_MOST_PER_PART = {"mean": 256, "none": 32, "flatten": 32}  # images: files of some megabytes
_LEAST_PER_PART = 16
_PARTS = 32  # of a small collection, so that several processes end at about the same time


class Stopped(KeyboardInterrupt):
    """SIGTERM, as an exception."""


@dataclass(frozen=True)
class Running:
    """How an extraction is run: none of it decides a row.

    Args:
        engine: "local" or "ray".
        workers: processes of this machine, or actors of the cluster.
        address: of a Ray cluster.
        force: whether it goes on where the doctor finds an error in the sample.
        stream: where progress is shown; None for nowhere.
        command: what started it, for the manifest.
    """

    engine: Engine
    workers: int
    address: str | None
    force: bool
    stream: TextIO | None
    command: str


def extract(
    images: str | os.PathLike[str],
    *,
    boxes: str | os.PathLike[str],
    backbone: str | nn.Module,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    pretrained: bool = True,
    maps: Sequence[str] | None = None,
    output_size: int | tuple[int, int] = 7,
    reduce: Reduce = "mean",
    masked: bool = False,
    dtype: str = "float16",
    resize: int | tuple[int, int] | None = None,
    letterbox: int | tuple[int, int] | None = None,
    batch_size: int = 16,
    device: str | None = None,
    images_per_part: int | None = None,
    form: Form | None = None,
    column: str | None = None,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    force: bool = False,
    quiet: bool = False,
    report: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> Regions:
    """Extract a feature for each box of each image of a collection, into a folder of Parquet files.

    Stopped at any moment, by SIGKILL too, and called again with the same arguments it goes on where it was, and the
    files are the same, byte for byte, as those of a run that was not stopped: on one machine, with the same packages
    and number of threads. What cannot be extracted is listed with the reason, `Regions.errors()`, and stops nothing.

    Convention: boxes are taken to pixels of the upright picture; see `Regions`.

    Args:
        images: a folder, a glob, a .txt with a path a line, a .tar or several, or a Parquet file with paths or bytes.
        boxes: COCO .json, .csv or .parquet, a folder of VOC, YOLO or LabelMe files; "whole" for all of each image,
            "grid:ROWSxCOLUMNS" or "grid:SIZE/STEP".
        backbone: "timm/resnet50", "torchvision/...", "transformers/...", "path.py:callable", or a module, which is put
            in eval mode and on `device`, with its weights in channels_last.
        out: the folder to write to, a new one or one of the same extraction.
        weights: a file of weights for `backbone`: what `torch.save` wrote of its state, or .safetensors.
        pretrained: whether a model of a library has the weights that its library has for it, or random ones.
        maps: names of the maps to pool from; all of a pyramid, or the last of other backbones, if left out.
        output_size: bins (height, width), or one number for both.
        reduce: "mean" over the bins, "none", or "flatten".
        masked: pool only what lies within the outline of a region, not all of its box. Outlines are COCO's polygons
            and run lengths, and the polygons of YOLO and LabelMe. Rows have a column "mask_share" more, the share of
            the box that is within; it is None for a box without an outline, all of which is pooled.
        dtype: of the stored features, "float16" or "float32".
        resize: images are resized to (height, width), or until their shorter side has so many pixels.
        letterbox: images are resized and padded to (height, width).
        batch_size: images that enter the backbone together, at most.
        device: "cpu", "cuda", ...; a GPU if there is one.
        images_per_part: images in a file; left out, a 32nd of them, but no fewer than 16 and no more than 256, or 32
            where the bins are kept.
        form: of `boxes`, where the name does not tell: "coco", "csv", "parquet", "voc", "yolo" or "labelme".
        column: of a Parquet file, with the images.
        engine: "local", or "ray" for the machines of a cluster, which all have to see `images`, `boxes` and `out`.
        workers: processes. 1 is this process. Left out, it is 1 on a GPU and with a module, else as many as
            there are cores.
        address: of a Ray cluster; left out, one is started here.
        force: go on where the doctor finds an error in a sample of the images.
        quiet: show no progress and no summary.
        report: a page to write at the end, on which a person sees whether the features make sense: pictures of some
            regions and of their nearest neighbours, coverage, errors.
        command: what the manifest has as the command; by default that of this program.

    Returns:
        The regions, to be read.

    Raises:
        SampleError: RA706, if a sample of the images shows that boxes and images do not go together; its `report` is
            the doctor's.
        StoreError: RA711, if `out` has another extraction; RA712, if another run writes there; RA713, if the disk is
            full.
        CollectionError, AnnotationError: RA701 to RA705, for images and boxes that cannot be read.
        OptionError: RA506, for options that do not go together.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "b.png"):
        ...     Image.new("RGB", (64, 48)).save(folder / name)
        >>> backbone = nn.Conv2d(3, 8, 4, stride=4)
        >>> out = folder / "regions"
        >>> regions = extract(folder, boxes="grid:2x2", backbone=backbone, out=out, workers=1, quiet=True)
        >>> len(regions), regions[0].image_id, regions[0].box_xyxy, regions[0].feature.shape
        (8, 'a.png', tensor([ 0.,  0., 32., 24.]), torch.Size([8]))
    """
    recipe = Recipe.of_options(
        backbone,
        weights=weights,
        pretrained=pretrained,
        maps=maps,
        output_size=output_size,
        reduce=reduce,
        dtype=dtype,
        resize=resize,
        letterbox=letterbox,
        device=device,
        masked=masked,
    )
    given = {"batch_size": batch_size, "images_per_part": images_per_part, "workers": workers}
    _check_counts({name: count for name, count in given.items() if count is not None})
    if engine not in get_args(Engine):
        raise OptionError(f"RA506: expected engine, one of {', '.join(get_args(Engine))}; got {engine!r}.")
    running = Running(
        engine,
        workers or _workers(recipe),
        address,
        force,
        None if quiet else sys.stderr,
        shlex.join(sys.argv) if command is None else command,
    )
    for package in ("numpy", "pyarrow"):
        needed(package)  # before anything is read
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    collection = list_images(images, column=column)
    source = open_boxes(boxes, collection, folder / "index.sqlite", form=form, with_masks=masked)
    per_part = images_per_part or _images_per_part(len(collection), reduce)
    regions = _run(collection, source, recipe, folder, batch_size, per_part, running)
    if report is not None:
        save_report(regions, collection, report)
    return regions


def _run(
    images: Sequence[ImageRef],
    source: OpenBoxes,
    recipe: Recipe,
    folder: Path,
    batch_size: int,
    images_per_part: int,
    running: Running,
) -> Regions:
    extractor = recipe.build()
    sample = sample_of(images)
    traced_hw = _size_of_first(sample, recipe.fit)
    learned = learn(recipe, extractor, traced_hw, source.columns)
    options = {
        "output_size": list(recipe.output_size),
        "reduce": recipe.reduce,
        "masked": recipe.masked,
        "batch_size": batch_size,
    }
    manifest = Manifest(
        schema=learned.schema,
        backbone=learned.backbone,
        grids=learned.grids,
        transform=learned.transform,
        options={**options, "device": torch.device(recipe.device).type},
        images_sha256=_digest(images),
        boxes_sha256=source.fingerprint,
        image_count=len(images),
        images_per_part=images_per_part,
        command=running.command,
        versions=versions(),
    )
    with writing(folder, manifest) as parts:
        job = _job(recipe, traced_hw, source, parts, batch_size, running, learned)
        if parts.missing():
            _fill(job, images, extractor, sample, source, images_per_part, running)
    regions = open_store(folder)
    _say(running, progress.summary(regions)[0])
    return regions


def _job(
    recipe: Recipe,
    traced_hw: tuple[int, int],
    source: OpenBoxes,
    parts: Parts,
    batch_size: int,
    running: Running,
    learned: Learned,
) -> Job:
    decoders = max(1, (os.cpu_count() or 1) // running.workers)
    return Job(recipe, traced_hw, source, parts, batch_size, decoders, learned.backbone["weights_sha256"])


def _fill(
    job: Job,
    images: Sequence[ImageRef],
    extractor: RegionExtractor,
    sample: Sequence[ImageRef],
    source: OpenBoxes,
    per_part: int,
    running: Running,
) -> None:
    parts = job.parts
    missing, begun = parts.missing(), bool(parts.present())
    if source.matching is not None:
        _say(running, f"{source.matching}.")
    if not begun:
        _look_at(job, sample, extractor, running)
    gone = [
        ErrorRow(name, None, "RA702", "the annotations name this image; the collection does not have it")
        for name in source.unmatched(image.image_id for image in images)
    ]
    parts.write_unmatched(gone)
    todo = ((number, images[number * per_part : (number + 1) * per_part]) for number in missing)
    there = len(images) - sum(len(images[number * per_part : (number + 1) * per_part]) for number in missing)
    if begun:
        _say(running, f"Going on: {there} of {len(images)} images are there.")
    tally = progress.Tally(len(images), there)
    with _stopping(parts, running), progress.shown(tally, running.stream) as note:
        if running.engine == "ray":
            from roialign.extraction import ray

            ray.run(job, todo, note, running.workers, running.address)
        else:
            local.run(job, todo, note, running.workers, extractor)


def _look_at(job: Job, sample: Sequence[ImageRef], extractor: RegionExtractor, running: Running) -> None:
    work = job.open(extractor)
    try:
        check(sample, Decode(job.source, job.recipe.masked), work.embed)
    except SampleError as error:
        if not running.force:
            raise
        _say(running, f"{error}\nGoing on all the same.")
    finally:
        work.close()


@contextmanager
def _stopping(parts: Parts, running: Running) -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, and either says that nothing is lost."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        done = len(parts.present())
        _say(running, f"Stopped with {done} of {parts.count} parts written. The same command goes on from there.")
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _say(running: Running, words: str) -> None:
    if running.stream is not None:
        print(progress.wrapped(words), file=running.stream, flush=True)


def _images_per_part(count: int, reduce: Reduce) -> int:
    return max(_LEAST_PER_PART, min(_MOST_PER_PART[reduce], math.ceil(count / _PARTS)))


def _check_counts(counts: Mapping[str, Any]) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise OptionError(f"RA506: expected {name}, a whole number of at least 1; got {count!r}.")


def _workers(recipe: Recipe) -> int:
    here = isinstance(recipe.backbone, nn.Module) or torch.device(recipe.device).type != "cpu"
    return 1 if here else os.cpu_count() or 1


def _size_of_first(sample: Sequence[ImageRef], fit: Fit | None) -> tuple[int, int]:
    """The size at which the first image that can be read enters the backbone."""
    said = ""
    for image in sample:
        try:
            frame = Frame.image(upright_size_hw(io.BytesIO(image.read_bytes()), image.image_id))
            return (fit(frame) if fit else frame).size_hw
        except (OSError, RoIError) as error:
            said = said or str(error)
    raise SampleError(f"RA706: expected images that can be read; none of {len(sample)} can, the first for: {said}")


def _digest(images: Sequence[ImageRef]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.image_id}\n".encode())
    return digest.hexdigest()
