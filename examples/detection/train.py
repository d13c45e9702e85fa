"""Train Faster R-CNN, or Mask R-CNN where there are masks: `python -m examples.detection.train --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import distributed

from .checkpoint import Recipe
from .data import Photos, read
from .evaluate import evaluate, told
from .loop import Work, train
from .pictures import save_pictures


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    photos = read(options.data, options.split)
    if not len(photos):
        raise SystemExit(f"expected photographs in split {options.split} of {options.data}; got none")
    work = _work(options)
    recipe = Recipe(
        **{one.name: getattr(options, one.name) for one in fields(Recipe) if hasattr(options, one.name)}
        | {"size_hw": tuple(options.size_hw), "masks": photos.has_masks}
    )
    if recipe.batch % work.world:
        raise SystemExit(f"expected a batch that {work.world} processes can share; got {recipe.batch}")
    say = _say if work.rank == 0 else _silent
    _introduce(photos, say)
    begin = time.monotonic()
    model = train(photos, recipe, work, say)
    say(f"trained in {time.monotonic() - begin:.0f} s: {work.checkpoint}")
    if work.rank == 0 and options.test:
        tested = read(options.data, options.test, photos.classes)
        scores, _ = evaluate(model, tested)
        (work.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        save_pictures(model, tested, work.out / "pictures")
        say(f"{len(tested)} photographs of {options.test}\n{told(scores)}\npictures: {work.out / 'pictures'}")
    if work.world > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of VOC's or COCO's form")
    parser.add_argument("--split", default="train", help="the photographs to learn from")
    parser.add_argument("--test", default="test", help="the photographs to evaluate on at the end; '' for none")
    parser.add_argument("--out", type=Path, required=True, help="the folder for what it makes; goes on from there")
    recipe = parser.add_argument_group("what decides the weights")
    recipe.add_argument("--epochs", type=float, default=Recipe.epochs)
    recipe.add_argument("--batch", type=int, default=Recipe.batch, help="photographs in a step, in all processes")
    recipe.add_argument("--size", dest="size_hw", type=int, nargs=2, default=Recipe.size_hw, metavar=("H", "W"))
    recipe.add_argument("--rate", type=float, default=Recipe.rate, help="the largest learning rate")
    recipe.add_argument("--decay", type=float, default=Recipe.decay, help="weight decay")
    recipe.add_argument("--any-way-up", action="store_true", help="turn and mirror: seen from above or in a microscope")
    recipe.add_argument("--seed", type=int, default=Recipe.seed)
    recipe.add_argument("--pooler", choices=("roialign", "exact", "torchvision"), default=Recipe.pooler)
    recipe.add_argument("--double", action="store_true", help="in float64: slow, and tells a mistake from rounding")
    work = parser.add_argument_group("how it is done")
    work.add_argument("--threads", type=int, help="of each process")
    work.add_argument("--workers", type=int, default=0, help="processes that read photographs")
    work.add_argument("--checkpoint-minutes", type=float, default=1.0, help="between checkpoints; 0: after each step")
    work.add_argument("--deterministic", action="store_true", help="only operations that give the same bits each time")
    work.add_argument("--no-doctor", dest="doctor", action="store_false", help="do not examine the first step")
    return parser


def _work(options: argparse.Namespace) -> Work:
    """Alone, or one of the processes that torchrun started."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if world > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    options.out.mkdir(parents=True, exist_ok=True)
    return Work(options.out, device, rank, world, options.workers, options.doctor, options.checkpoint_minutes)


def _introduce(photos: Photos, say: Callable[[str], None]) -> None:
    objects = sum(len(photo.labels) for photo in photos)
    kind = "Mask R-CNN" if photos.has_masks else "Faster R-CNN"
    say(f"{kind}: {len(photos)} photographs with {objects} objects: {', '.join(photos.classes)}")
    for line in photos.left_out[:5]:
        say(f"left out, not a box of a known class: {line}")


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
