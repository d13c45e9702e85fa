"""The training loop: one process or several, continued exactly where it stopped."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN

import roialign

from .checkpoint import Recipe, resume, save
from .data import Photos
from .draws import Draws, Steps, Target, View, seed_of
from .model import build, chosen, seed_choices

Batch = list[tuple[Tensor, Target]]
_WARM_UP = 0.05  # of the steps
_OF_THE_BACKBONE = 0.5  # its learning rate, beside that of what is new
_LARGEST_GRADIENT = 5.0
_SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class Work:
    """Where a training runs and what it leaves behind; none of it decides which weights come out."""

    out: Path
    device: torch.device
    rank: int = 0
    world: int = 1
    workers: int = 0
    doctor: bool = True
    minutes_between_checkpoints: float = 1

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"


def train(photos: Photos, recipe: Recipe, work: Work, say: Callable[[str], None] = print) -> FasterRCNN:
    """Train to the end, from the checkpoint where there is one."""
    torch.manual_seed(seed_of(recipe.seed, 4))
    model = build(len(photos.classes), recipe.size_hw, masks=recipe.masks, pooler=recipe.pooler)
    return fit(model, photos, recipe, work, say)


def fit(
    model: FasterRCNN, photos: Photos, recipe: Recipe, work: Work, say: Callable[[str], None] = print
) -> FasterRCNN:
    """Train this model to the end, from the checkpoint where there is one."""
    model.to(work.device, recipe.dtype).train()
    optimizer = AdamW(_groups(model, recipe), lr=recipe.rate, weight_decay=recipe.decay)
    first = resume(work.checkpoint, recipe, photos.classes, model, optimizer)
    last = math.ceil(recipe.epochs * len(photos) / recipe.batch)
    if first:
        say(f"going on at step {first} of {last}")
    replica = DistributedDataParallel(model) if work.world > 1 else model
    log = _Log(work, first, last, say)
    saved = time.monotonic()
    for step, batch in enumerate(batches(photos, recipe, work, first, last), start=first):
        _set_rates(optimizer, recipe, step, last)
        draws = range(step * recipe.batch + work.rank, (step + 1) * recipe.batch, work.world)
        seed_choices(model, recipe.seed, draws)
        losses = _examined(replica, batch) if work.doctor and step == first else replica(*_columns(batch))
        shares = _shares(chosen(model), losses, work)
        loss = sum(value * shares[key] for key, value in losses.items())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        log.note(step, {key: value.detach() * shares[key] for key, value in losses.items()})
        if work.rank == 0 and time.monotonic() - saved > 60 * work.minutes_between_checkpoints:
            save(work.checkpoint, recipe, photos.classes, step + 1, model, optimizer)
            saved = time.monotonic()
    if work.rank == 0 and first < last:
        save(work.checkpoint, recipe, photos.classes, last, model, optimizer)
    return model


def _groups(model: FasterRCNN, recipe: Recipe) -> list[dict[str, object]]:
    """The parameters that are learnt, by how: the backbone more slowly, and biases without decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".body." in name, parameter.dim() > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.decay if decays else 0.0,
            "share": _OF_THE_BACKBONE if is_body else 1.0,
        }
        for (is_body, decays), parameters in groups.items()
    ]


def _set_rates(optimizer: Optimizer, recipe: Recipe, step: int, last: int) -> None:
    """The learning rates of this step: up in a line, then down along a cosine. No state: they follow from the step."""
    warm = max(1, round(_WARM_UP * last))
    share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, last - warm)))
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate * group["share"] * share


def batches(photos: Photos, recipe: Recipe, work: Work, first: int, last: int) -> Iterable[Batch]:
    """This process's part of each step's batch."""
    view = View(recipe.size_hw, any_way_up=recipe.any_way_up)
    steps = Steps(first, last, recipe.batch, work.rank, work.world)
    loader = DataLoader(
        Draws(photos, view, recipe.seed), batch_sampler=steps, collate_fn=list, num_workers=work.workers
    )
    for batch in loader:
        yield [
            (_to(image, work, recipe), {key: _to(value, work, recipe) for key, value in target.items()})
            for image, target in batch
        ]


def _to(values: Tensor, work: Work, recipe: Recipe) -> Tensor:
    return values.to(work.device, recipe.dtype if values.is_floating_point() else None)


def _columns(batch: Batch) -> tuple[list[Tensor], list[Target]]:
    return [image for image, _ in batch], [target for _, target in batch]


def first_step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The losses of a first step, for the doctor to look on at: it pools at the targets, too."""
    images, targets = _columns(batch)
    _pool_marks(model.module if isinstance(model, DistributedDataParallel) else model, images, targets)
    return model(images, targets)


def _examined(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The losses of a first step. Where the doctor finds an error in it the training does not start."""
    try:
        with roialign.watch() as report:
            losses = first_step(model, batch)
    finally:
        if report.findings:
            print(report, file=sys.stderr)
    if any(finding.severity == "error" for finding in report.findings):
        raise SystemExit("the doctor found an error in the first step; --no-doctor trains all the same")
    return losses


@torch.no_grad()
def _pool_marks(model: FasterRCNN, images: list[Tensor], targets: list[Target]) -> None:
    """Pool at the targets alone, for the doctor: among the proposals of an untrained network they would drown."""
    entered, resized = model.transform(images, targets)
    maps = model.backbone(entered.tensors)
    model.roi_heads.box_roi_pool(maps, [target["boxes"] for target in resized], entered.image_sizes)


def _shares(counts: dict[str, int], losses: dict[str, Tensor], work: Work) -> dict[str, float]:
    """What each loss is multiplied by, so that its mean over the processes is the mean over the whole batch.

    Each is a mean over anchors, proposals or masks, of which one process may have more than another.
    """
    if work.world == 1:
        return dict.fromkeys(losses, 1.0)
    own = torch.tensor([counts[key] for key in losses], dtype=torch.float64, device=work.device)
    everyones = own.clone()
    distributed.all_reduce(everyones)
    return dict(zip(losses, (own * work.world / everyones.clamp(min=1)).tolist(), strict=True))


class _Log:
    """The losses of each step in a file, and of some in lines with the time left."""

    def __init__(self, work: Work, first: int, last: int, say: Callable[[str], None]) -> None:
        self._work, self._first, self._last, self._say = work, first, last, say
        self._begin = self._said = time.monotonic()
        if work.rank == 0:
            path = work.out / "losses.jsonl"
            lines = path.read_text().splitlines(keepends=True)[:first] if path.exists() else []
            path.write_text("".join(lines))  # those after the checkpoint come again
            self._file = path.open("a", buffering=1)

    def note(self, step: int, losses: dict[str, Tensor]) -> None:
        values = torch.stack(list(losses.values()))
        if self._work.world > 1:
            distributed.all_reduce(values)
            values /= self._work.world
        row = dict(zip(losses, values.tolist(), strict=True))
        loss = sum(row.values())
        if not math.isfinite(loss):
            raise SystemExit(f"expected a finite loss; got {row} at step {step}. Try a smaller --rate.")
        if self._work.rank != 0:
            return
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        now, done = time.monotonic(), step + 1
        if now - self._said > _SECONDS_BETWEEN_LINES or done == self._last:
            self._said = now
            left = (now - self._begin) / (done - self._first) * (self._last - done)
            parts = ", ".join(f"{key.removeprefix('loss_')} {value:.3f}" for key, value in row.items())
            self._say(f"step {done} of {self._last}: loss {loss:.3f} ({parts}), {_minutes(left)} left")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
