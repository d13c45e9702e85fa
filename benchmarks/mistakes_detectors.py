"""The example's small Faster R-CNN, pooling from its finest map, and the coordinate mistakes that are made in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from examples.detection import model as example
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import MultiScaleRoIAlign, roi_align

from roialign.integrations.torchvision import upgrade

SIZE_HW = (224, 336)
_DIVISIBLE = 112  # batches are of that size, whatever the photographs' sizes: it is divisible by 7 and by 16
_RESIZED = SIZE_HW[0] / 480  # of the photographs
_MAP = "8"


class Resampled(nn.Module):
    """The finest map has a stride of 7, as 14 is that of many vision transformers: 8 cells were made of 7."""

    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        self.pyramid, self.out_channels = pyramid, pyramid.out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.pyramid(images)
        size_hw = images.shape[2] // 7, images.shape[3] // 7
        resampled = nn.functional.interpolate(maps[_MAP], size_hw, mode="bilinear", align_corners=False)
        return maps | {_MAP: resampled}


def build(classes: int, *, stride_7: bool) -> FasterRCNN:
    """The detector with the right grid, from a trace of its backbone."""
    model = example.build(classes, SIZE_HW, masks=False, pooler="torchvision")
    model.transform.size_divisible = _DIVISIBLE
    model.roi_heads.box_roi_pool = MultiScaleRoIAlign([_MAP], output_size=7, sampling_ratio=2)
    if stride_7:
        model.backbone = Resampled(model.backbone)
    return upgrade(model, exact=True)


class OneScale(nn.Module):
    """A pooler as programs write it by hand: one scale, which is believed."""

    def __init__(self, spatial_scale: float, aligned: bool) -> None:
        super().__init__()
        self.spatial_scale, self.aligned = spatial_scale, aligned

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        return roi_align(maps[_MAP], boxes, 7, self.spatial_scale, 2, self.aligned)


Change = Callable[[FasterRCNN], Any]


def _pools(spatial_scale: float, aligned: bool) -> Change:
    def change(model: FasterRCNN) -> None:
        model.roi_heads.box_roi_pool = OneScale(spatial_scale, aligned)

    return change


def _pools_at(other: Callable[[Tensor], Tensor]) -> Change:
    """Hands other boxes to the pooler."""

    def moved(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        maps, boxes, image_shapes = arguments
        return maps, [other(some) for some in boxes], image_shapes

    return lambda model: model.roi_heads.box_roi_pool.register_forward_pre_hook(moved)


def _learns(other: Callable[[Tensor], Tensor]) -> Change:
    """Learns from other boxes; those that are none any more are dropped, for torchvision would refuse them."""

    def changed(target: dict[str, Tensor]) -> dict[str, Tensor]:
        boxes = other(target["boxes"])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {"boxes": boxes[kept], "labels": target["labels"][kept]}

    def moved(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        images, targets = (*arguments, None)[:2]
        return images, targets and [changed(target) for target in targets]

    return lambda model: model.transform.register_forward_pre_hook(moved)


def _before_resize(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy / _RESIZED


def _as_xywh(boxes_xyxy: Tensor) -> Tensor:
    return torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)


def _half(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy / 2


@dataclass(frozen=True)
class Variant:
    """The detector, correctly wired or with one mistake in it."""

    name: str
    what: str
    change: Change | None = None  # makes the mistake; None in what others are compared with
    learnt: bool = True  # whether a detector is trained with it
    of_pooling: bool = True  # whether a detector that was trained correctly can make it in use
    stride_7: bool = False

    def build(self, classes: int) -> FasterRCNN:
        model = build(classes, stride_7=self.stride_7)
        if self.change is not None:
            self.change(model)
        return model


VARIANTS = (
    Variant("correct", "none: the traced grid"),
    Variant("half a cell", "`aligned=False` where it should be `True`", _pools(1 / 8, aligned=False)),
    Variant("twice the stride", "16: one stride too many counted, or one taken out", _pools(1 / 16, aligned=True)),
    Variant(
        "before the resize", "boxes of the photograph before it was resized", _pools_at(_before_resize), learnt=False
    ),
    Variant("xywh", "x, y, width, height as xyxy", _pools_at(_as_xywh), learnt=False),
    Variant("half", "boxes of an image of half the size", _pools_at(_half), learnt=False),
    Variant("targets before the resize", "those of the photograph", _learns(_before_resize), of_pooling=False),
    Variant(
        "targets xywh", "x, y, width, height as xyxy; what is no box is dropped", _learns(_as_xywh), of_pooling=False
    ),
    Variant("targets half", "those of an image of half the size", _learns(_half), of_pooling=False),
    Variant("correct, stride 7", "none: the traced grid", stride_7=True),
    Variant("power of two", "stride 7 taken for 8, as 14 is for 16", _pools(1 / 8, aligned=True), stride_7=True),
)
