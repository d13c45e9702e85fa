"""Checkpoints: whole or not there at all, and all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN

from .model import Pooler, build


@dataclass(frozen=True)
class Recipe:
    """All that decides which weights come out, beside the photographs."""

    seed: int = 0
    epochs: float = 60
    batch: int = 4
    size_hw: tuple[int, int] = (320, 416)
    rate: float = 5e-4
    decay: float = 0.05
    any_way_up: bool = False
    pooler: Pooler = "roialign"
    masks: bool = False
    double: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.double else torch.float32


def save(
    path: Path, recipe: Recipe, classes: tuple[str, ...], step: int, model: nn.Module, optimizer: Optimizer
) -> None:
    """Write the checkpoint beside the last one, then put it in its place: a process may be killed at any moment."""
    content = {
        "recipe": asdict(recipe),
        "classes": classes,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def resume(path: Path, recipe: Recipe, classes: tuple[str, ...], model: nn.Module, optimizer: Optimizer) -> int:
    """Take up the checkpoint, if there is one; the step to go on with."""
    if not path.exists():
        return 0
    content = torch.load(path, map_location="cpu", weights_only=True)
    there = _recipe(content)
    changed = [one.name for one in fields(Recipe) if getattr(there, one.name) != getattr(recipe, one.name)]
    if changed or tuple(content["classes"]) != classes:
        raise SystemExit(
            f"expected the training that {path} is of, to go on with it; got another "
            f"{', '.join(changed) or 'set of classes'}. Name another folder with --out for another training."
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return int(content["step"])


def restore(path: Path, pooler: Pooler | None = None) -> tuple[FasterRCNN, tuple[str, ...]]:
    """The detector of a checkpoint, to be used, and the names of its classes.

    Args:
        pooler: another than it was trained with.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    recipe, classes = _recipe(content), tuple(content["classes"])
    model = build(len(classes), recipe.size_hw, masks=recipe.masks, pooler=pooler or recipe.pooler, weights=False)
    model.load_state_dict(content["model"])
    return model.eval(), classes


def _recipe(content: dict[str, Any]) -> Recipe:
    return Recipe(**content["recipe"] | {"size_hw": tuple(content["recipe"]["size_hw"])})
