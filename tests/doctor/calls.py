"""Healthy calls of random scenes, and one function for each fault that they can be given."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """Boxes of a whole image, in its pixels, and a feature map of it."""

    features: Tensor
    boxes_xyxy: Tensor
    stride: int
    size_hw: tuple[int, int]

    @property
    def scale(self) -> float:
        return 1 / self.stride

    @property
    def size_whwh(self) -> Tensor:
        height, width = self.size_hw
        return torch.tensor([width, height, width, height], dtype=torch.float32)


def scenes(count: int, boxes: tuple[int, ...] = (1, 2, 3, 5, 8, 20, 60)) -> list[Scene]:
    """Random scenes, the same ones at every call: strides 4 to 32, oblong images, boxes of all sizes."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    found: list[Scene] = []
    while len(found) < count:
        stride = rng.choice([4, 8, 14, 16, 32])
        height, width = (rng.randint(224 // stride, limit // stride) * stride for limit in (1024, 1333))
        number = rng.choice(boxes)
        centres = torch.rand(number, 2, generator=generator) * torch.tensor([width, height])
        sides = torch.exp(torch.randn(number, 2, generator=generator) * 0.7) * min(height, width) / 8
        corners = torch.cat([centres - sides / 2, centres + sides / 2], 1).clamp(min=0)
        corners = corners.minimum(torch.tensor([width, height, width, height]))
        corners = corners[((corners[:, 2:] - corners[:, :2]) > 1).all(1)]
        if len(corners):
            features = torch.randn(1, 4, height // stride, width // stride, generator=generator)
            found.append(Scene(features, corners, stride, (height, width)))
    return found


def _strayed(scene: Scene) -> Tensor:
    return torch.cat([scene.boxes_xyxy, scene.size_whwh[None] + torch.tensor([[50.0, 50.0, 99.0, 99.0]])])


def _first_inverted(scene: Scene) -> Tensor:
    return torch.cat([scene.boxes_xyxy[:1, [2, 3, 0, 1]], scene.boxes_xyxy[1:]])


Fault = Callable[[Scene], tuple[Tensor, float]]
"""From a scene to the boxes and the spatial_scale of a faulty call."""

FAULTS: dict[str, tuple[str, Fault]] = {
    "pixels unscaled": ("RA101", lambda scene: (scene.boxes_xyxy, 1.0)),
    "scaled twice": ("RA102", lambda scene: (scene.boxes_xyxy / scene.stride, scene.scale)),
    "normalized": ("RA103", lambda scene: (scene.boxes_xyxy / scene.size_whwh, scene.scale)),
    "normalized, unscaled": ("RA103", lambda scene: (scene.boxes_xyxy / scene.size_whwh, 1.0)),
    "stride for inverse": ("RA104", lambda scene: (scene.boxes_xyxy, float(scene.stride))),
    "stride halved": ("RA106", lambda scene: (scene.boxes_xyxy, 2 * scene.scale)),
    "stride doubled": ("RA106", lambda scene: (scene.boxes_xyxy, scene.scale / 2)),
    "before the resize": ("RA107", lambda scene: (scene.boxes_xyxy * 2.5, scene.scale)),
    "xywh": ("RA201", lambda scene: (_as_xywh(scene.boxes_xyxy), scene.scale)),
    "y first": ("RA203", lambda scene: (scene.boxes_xyxy[:, [1, 0, 3, 2]], scene.scale)),
    "inverted": ("RA204", lambda scene: (_first_inverted(scene), scene.scale)),
    "strayed": ("RA209", lambda scene: (_strayed(scene), scene.scale)),
}


def _as_xywh(boxes_xyxy: Tensor) -> Tensor:
    return torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
