"""A small Faster R-CNN on one map, and the coordinate mistakes that are made in it.

The backbone is EfficientNet-Lite0 up to its fifth stage, with the stride of the fourth taken out, as DC5 detectors and
re-identification networks do with a last stage: its map has a stride of 8, where the published layers multiply to 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from examples.detection.model import SeededSampler, load_backbone
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, roi_align

from roialign.integrations.torchvision import upgrade

SIZE_HW = (224, 336)  # multiples of 7 and of 16
_RESIZED = SIZE_HW[0] / 480  # of the photographs
_CHANNELS = 96
_ANCHORS_PX = (16, 28, 48, 88)


class OneMap(nn.Module):
    """A map of stride 8; or of stride 7, for images that it enlarges by 8 / 7 at first.

    So strides of 14, of patches as DINOv2 and other vision transformers have them, are to those of 16.
    """

    def __init__(self, *, stride_7: bool = False) -> None:
        super().__init__()
        self.out_channels = _CHANNELS
        self.enlarged_hw = (SIZE_HW[0] * 8 // 7, SIZE_HW[1] * 8 // 7) if stride_7 else None
        whole = load_backbone()
        whole.blocks[3][0].conv_dw.stride = (1, 1)
        frozen = nn.Sequential(whole.conv_stem, whole.bn1, *whole.blocks[:3]).requires_grad_(False)
        self.body = nn.Sequential(frozen, *whole.blocks[3:5])
        self.narrow = nn.Conv2d(112, _CHANNELS, 1)
        self.smooth = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)

    def train(self, mode: bool = True) -> OneMap:
        super().train(mode)
        for part in self.body.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.enlarged_hw is not None:
            images = nn.functional.interpolate(images, self.enlarged_hw, mode="bilinear", align_corners=False)
        return {"0": self.smooth(self.narrow(self.body(images)))}


def build(classes: int, *, stride_7: bool = False) -> FasterRCNN:
    """The detector with the right grid, from a trace of its backbone."""
    model = FasterRCNN(
        OneMap(stride_7=stride_7),
        min_size=SIZE_HW[0],
        max_size=SIZE_HW[1],
        size_divisible=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        rpn_anchor_generator=AnchorGenerator((_ANCHORS_PX,), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=300,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(_CHANNELS * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, classes + 1),
        box_batch_size_per_image=128,
        box_score_thresh=0.02,
        box_detections_per_img=200,
    )
    for part in (model.rpn, model.roi_heads):
        sampler = part.fg_bg_sampler
        part.fg_bg_sampler = SeededSampler(sampler.batch_size_per_image, sampler.positive_fraction)
    return upgrade(model.to(memory_format=torch.channels_last), exact=True)


class OneScale(nn.Module):
    """A pooler as programs write it by hand: one scale, which is believed."""

    def __init__(self, spatial_scale: float, aligned: bool) -> None:
        super().__init__()
        self.spatial_scale, self.aligned = spatial_scale, aligned

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        return roi_align(maps["0"], boxes, 7, self.spatial_scale, 2, self.aligned)


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
    """The detector, rightly wired or with one mistake in it."""

    name: str
    what: str
    change: Change | None = None  # makes the mistake; None in what others are compared with
    of_pooling: bool = True  # and not of what is learnt from: a detector that was trained rightly can make it, too
    stride_7: bool = False

    def build(self, classes: int) -> FasterRCNN:
        model = build(classes, stride_7=self.stride_7)
        if self.change is not None:
            self.change(model)
        return model


VARIANTS = (
    Variant("right", "none: the traced grid"),
    Variant("half a cell", "`aligned=False` where it should be `True`", _pools(1 / 8, aligned=False)),
    Variant("published stride", "stride 16, though the last one was taken out", _pools(1 / 16, aligned=True)),
    Variant("pooled before the resize", "boxes of the photograph before it was resized", _pools_at(_before_resize)),
    Variant("pooled as xywh", "x, y, width, height as xyxy", _pools_at(_as_xywh)),
    Variant("pooled at half", "boxes of an image of half the size", _pools_at(_half)),
    Variant(
        "learnt before the resize", "marks of the photograph before it was resized", _learns(_before_resize), False
    ),
    Variant("learnt as xywh", "marks as x, y, width, height; what is no box is dropped", _learns(_as_xywh), False),
    Variant("learnt at half", "marks of an image of half the size", _learns(_half), False),
    Variant("right, stride 7", "none: the traced grid", stride_7=True),
    Variant(
        "power of two",
        "stride 7 taken for 8, as patches of 14 pixels are for 16",
        _pools(1 / 8, aligned=True),
        stride_7=True,
    ),
)
