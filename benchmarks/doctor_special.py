"""Healthy programs in which one kind of mistake is at home, each with the mistakes that are made before it pools."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign

from .doctor_healthy import batch_of, inception_stem, seen_by, unpadded_stem, vit_with_registers
from .doctor_pipelines import (
    Intake,
    Pipeline,
    Scene,
    boxes_of,
    fit_short,
    letterbox,
    map_intake,
    pool_map,
    resized,
)

_LARGE_PX = 2800  # from 2048 on half precision counts in steps of 2
_LEVELS = {"0": 8, "1": 16, "2": 32}


def special_pipelines() -> list[Pipeline]:
    """All of them, with random weights of a fixed seed."""
    torch.manual_seed(0)
    resnet = list(torchvision.models.resnet18(weights=None).eval().children())
    trunk = nn.Sequential(*resnet[:7])  # stride 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            _unpadded("unpadded stem", *unpadded_stem()),
            _unpadded("unpadded Inception-v3", *inception_stem()),
            _registers(),
            _resized_twice(trunk),
            _enlarged(trunk),
            _window(trunk),
            _several(trunk),
            _levels(resnet),
            _large(),
            _mosaic(trunk),
            _finer(nn.Sequential(*resnet[:6])),
        ]


def _unpadded(name: str, model: nn.Module, offset: float, stride: int) -> Pipeline:
    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.choice([224, 256, 299]), 1)
        aligned = rng.random() < 0.5
        as_drawn = map_intake(scene, image, model(image), stride, to_frame, aligned=aligned)
        as_drawn = replace(as_drawn, boxes=[seen_by(as_drawn.xyxy, image, offset)])
        taken_off = offset - (stride / 2 if aligned else 0)
        of_the_map = as_drawn.xyxy / _sides(as_drawn.frame_hw) * _sides(tuple(as_drawn.features.shape[2:]))
        wrong = {
            "offset": lambda: as_drawn,
            "fractions of the map": lambda: replace(as_drawn, boxes=[of_the_map], spatial_scale=1.0),
        }
        return replace(as_drawn, boxes=[as_drawn.xyxy - taken_off], wrong=wrong)

    return Pipeline(name, model, look, pool_map, "unpadded", counts=(3, 8, 20, 60))


def _registers() -> Pipeline:
    model = vit_with_registers()

    def look(scene: Scene, rng: random.Random) -> Intake:
        rows, columns = rng.randint(14, 24), rng.randint(14, 24)
        image, to_frame = letterbox(scene, (14 * rows, 14 * columns))
        tokens = model.forward_features(image)

        def made_from(first: int) -> Tensor:
            of_patches: Tensor = tokens[:, first : first + rows * columns].transpose(1, 2)
            return of_patches.reshape(1, -1, rows, columns)

        intake = map_intake(scene, image, made_from(5), 14, to_frame, aligned=True, tokens=tokens)
        return replace(intake, wrong={"registers": lambda: replace(intake, features=made_from(1))})

    return Pipeline("registers of a ViT", model, look, pool_map, "registers")


def _resized_twice(trunk: nn.Module) -> Pipeline:
    """The loader resizes the photograph, and the program what it was given."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        loaded_hw = _times(scene.size_hw, rng.choice([rng.uniform(0.45, 0.8), rng.uniform(1.25, 2)]))
        frame_hw = _times(loaded_hw, rng.randrange(220, 320) / min(loaded_hw))
        loaded = functional.interpolate(scene.photograph[None], loaded_hw, mode="bilinear", antialias=True)
        image = functional.interpolate(loaded, frame_hw, mode="bilinear", antialias=True) - 0.5
        to_loaded, to_frame = _ratio(scene.size_hw, loaded_hw), _ratio(loaded_hw, frame_hw)
        intake = map_intake(scene, image, trunk(image), 16, (_ratio(scene.size_hw, frame_hw), 0.0, 0.0))
        wrong = {
            "first resize only": lambda: replace(intake, boxes=[scene.boxes_xyxy * to_loaded]),
            "second resize only": lambda: replace(intake, boxes=[scene.boxes_xyxy * to_frame]),
        }
        return replace(intake, wrong=wrong)

    return Pipeline("resized twice", trunk, look, pool_map, "map")


def _enlarged(trunk: nn.Module) -> Pipeline:
    """A small photograph, resized to more than its size."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        height, width = (min(side, rng.randrange(130, 220)) for side in scene.size_hw)
        small = Scene(
            scene.photograph[:, :height, :width].clone(), boxes_of((height, width), len(scene.boxes_xyxy), rng)
        )
        image, to_frame = fit_short(small, round(rng.uniform(1.3, 2.4) * min(height, width)), 1)
        return map_intake(small, image, trunk(image), 16, to_frame, aligned=True)

    return Pipeline("resized up", trunk, look, pool_map, "map")


def _window(trunk: nn.Module) -> Pipeline:
    """A part of a larger picture, which it is a view of."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        picture = scene.photograph[None]
        height, width = (rng.randrange(round(0.45 * side), round(0.75 * side)) for side in scene.size_hw)
        x, y = rng.randint(16, scene.size_hw[1] - width), rng.randint(16, scene.size_hw[0] - height)
        window = picture[..., y : y + height, x : x + width]
        inside = Scene(scene.photograph, boxes_of((height, width), len(scene.boxes_xyxy), rng))
        intake = map_intake(inside, window, trunk(window), 16, (1.0, 0.0, 0.0))
        corner = intake.xyxy.new_tensor([x, y, x, y])
        return replace(intake, wrong={"corner": lambda: replace(intake, boxes=[intake.xyxy + corner])})

    return Pipeline("window of a photograph", trunk, look, pool_map, "map")


def _several(trunk: nn.Module) -> Pipeline:
    """Photographs of several sizes in one batch, with zeros below and to the right of them."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        count = rng.randint(2, 4)
        sizes = [_times(scene.size_hw, rng.uniform(0.25, 0.5)) for _ in range(count)]
        turned = [hw if rng.random() < 0.5 else (hw[1], hw[0]) for hw in sizes]
        image = batch_of([resized(scene, hw) for hw in turned])
        padded_hw = (int(image.shape[2]), int(image.shape[3]))
        boxes = [boxes_of(hw, rng.choice([1, 3, 8, 20]), rng) for hw in turned]
        of_the_batch = [some / _sides(hw) * _sides(padded_hw) for some, hw in zip(boxes, turned, strict=True)]
        intake = map_intake(scene, image, trunk(image), 16, (1.0, 0.0, 0.0), aligned=True)
        intake = replace(intake, boxes=boxes, image_shapes=tuple(turned))
        return replace(intake, wrong={"padded size": lambda: replace(intake, boxes=of_the_batch)})

    return Pipeline("several sizes in a batch", trunk, look, pool_map, "several")


class _Dilated(nn.Module):
    """Three maps of stride 8, as a network makes them whose later stages are dilated."""

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.stages = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=n, dilation=n) for n in (2, 4))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = [self.trunk(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return dict(zip(_LEVELS, maps, strict=True))


class _Levels(nn.Module):
    """Maps of stride 8, 16 and 32, of as many channels."""

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(count, 128, 1) for count in channels)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for name, stage, lateral in zip(_LEVELS, self.stages, self.lateral, strict=True):
            image = stage(image)
            made[name] = lateral(image)
        return made


def _levels(resnet: list[nn.Module]) -> Pipeline:
    trunk = nn.Sequential(*resnet[:6])
    model = nn.ModuleDict(
        {"pyramid": _Levels([trunk, resnet[6], resnet[7]], (128, 256, 512)), "dilated": _Dilated(trunk, 128)}
    ).eval()
    pooler = MultiScaleRoIAlign(list(_LEVELS), 7, 2)

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(240, 400), 32)
        height, width = int(image.shape[2]), int(image.shape[3])
        intake = map_intake(scene, image, model["pyramid"](image), 1, to_frame, image_shapes=((height, width),))
        return replace(intake, wrong={"one stride": lambda: replace(intake, features=model["dilated"](image))})

    def pool(intake: Intake) -> Tensor:
        pooler.scales = pooler.map_levels = None
        pooler.featmap_names = list(_LEVELS)
        pooled: Tensor = pooler(intake.features, intake.boxes, list(intake.image_shapes))
        return pooled

    return Pipeline("levels by hand", model, look, pool, "pyramid", counts=(8, 20, 60), pooler=pooler)


def _large() -> Pipeline:
    """A scan or an aerial picture full of small things, of which a light network makes a map."""
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1)).eval()

    def look(scene: Scene, rng: random.Random) -> Intake:
        times = math.ceil(_LARGE_PX / max(scene.size_hw))
        image = scene.photograph.repeat(1, times, times)[None] - 0.5
        intake = map_intake(scene, image, model(image), 8, (1.0, 0.0, 0.0), aligned=True, sampling_ratio=2)
        height, width = intake.frame_hw
        corners = torch.tensor([[rng.uniform(0.8, 0.96) * width, rng.uniform(0.8, 0.96) * height] for _ in intake.xyxy])
        sides = torch.tensor([[rng.uniform(12, 32), rng.uniform(12, 32)] for _ in intake.xyxy])
        intake = replace(intake, boxes=[torch.cat([corners, corners + sides], 1)])
        wrong = {"half": _rounded(intake, torch.float16), "bfloat16": _rounded(intake, torch.bfloat16)}
        return replace(intake, wrong=wrong)

    return Pipeline("large image", model, look, pool_map, "large")


def _mosaic(trunk: nn.Module) -> Pipeline:
    """Four photographs of one size, put together to one image."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        height, width = rng.randrange(112, 176), rng.randrange(112, 176)
        parts = [functional.interpolate(scene.photograph[None], (height, width), mode="bilinear") for _ in range(4)]
        image = torch.cat([torch.cat(parts[:2], 3), torch.cat(parts[2:], 3)], 2) - 0.5
        boxes = [boxes_of((height, width), math.ceil(len(scene.boxes_xyxy) / 4), rng) for _ in parts]

        def put_together(step_x: int, step_y: int) -> Tensor:
            corners = [(0, 0), (step_x, 0), (0, step_y), (step_x, step_y)]
            return torch.cat([some + some.new_tensor(at * 2) for some, at in zip(boxes, corners, strict=True)])

        intake = map_intake(scene, image, trunk(image), 16, (1.0, 0.0, 0.0), aligned=True)
        intake = replace(intake, boxes=[put_together(width, height)])
        return replace(intake, wrong={"sides": lambda: replace(intake, boxes=[put_together(height, width)])})

    return Pipeline("mosaic of four", trunk, look, pool_map, "map")


def _finer(trunk: nn.Module) -> Pipeline:
    """A map that is upsampled to more cells than its image has pixels."""

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, 7 * rng.randint(20, 32), 7)
        cells = [side * 8 // 7 for side in image.shape[2:]]
        features = functional.interpolate(trunk(image)[:, :32], cells, mode="bilinear")
        return map_intake(scene, image, features, 7 / 8, to_frame, aligned=True, sampling_ratio=2)

    return Pipeline("map finer than the image", trunk, look, pool_map, "map")


def _rounded(intake: Intake, dtype: torch.dtype) -> Callable[[], Intake]:
    return lambda: replace(intake, features=intake.features.to(dtype), boxes=[intake.xyxy.to(dtype)])


def _times(size_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    return round(size_hw[0] * factor), round(size_hw[1] * factor)


def _ratio(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> float:
    return to_hw[1] / from_hw[1]


def _sides(size_hw: tuple[int, int]) -> Tensor:
    return torch.tensor([size_hw[1], size_hw[0]] * 2, dtype=torch.float32)
