"""Features that are not the map that they are taken for."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from .program import Program, fault, unseen
from .scenes import Picture, blood, coins, objects, photo, resnet, seeded


@fault(
    "maskrcnn-benchmark#613",
    "pooled features are pooled again, with the boxes of the images",
    "RA3",
    says="pooled",
    right="the first output: 11 maps, 2 lists of boxes",
)
def pooled_twice() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        boxes = [objects(320, 480, 6), objects(320, 480, 5, seed=2)]
        features = roi_align(model(photo(320, 480, 2)), boxes, 14, spatial_scale=1 / 16, sampling_ratio=2)
        if right:
            return features
        return roi_align(features, boxes, 14, spatial_scale=1 / 16, sampling_ratio=2)

    return Program(model, run)


class _OwnNames(nn.Module):
    out_channels = 256

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet("layer3")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"feat": self.body(images)}


@fault(
    "vision#2021",
    "the backbone names its map differently, the pooler asks for '0'",
    "RA401",
    says="feat",
    right="featmap_names=['feat'], though torchvision itself raises an IndexError",
)
def own_names() -> Program:
    pooler = MultiScaleRoIAlign(["0"], 7, 2)
    anchors = AnchorGenerator(((64, 128),), ((1.0,),))
    model = seeded(lambda: FasterRCNN(_OwnNames(), 3, rpn_anchor_generator=anchors, box_roi_pool=pooler, min_size=256))

    def run(right: bool = False) -> Tensor:
        pooler.featmap_names = ["feat"] if right else ["0"]
        boxes: Tensor = model([photo(256, 320)[0]])[0]["boxes"]
        return boxes

    return Program(model, run, pooler, comparable=False)


@fault(
    "pytorch-image-models#1438",
    "Swin's maps [N, H, W, C] are pooled as [N, C, H, W]",
    "RA303",
    right="permute(0, 3, 1, 2)",
)
def channels_last() -> Program:
    model = seeded(
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", pretrained=False, features_only=True, img_size=(384, 512)
        )
    )

    def run(right: bool = False) -> Tensor:
        features = model(photo(384, 512))[2]
        boxes = [objects(384, 512)]
        return roi_align(features.permute(0, 3, 1, 2) if right else features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


def _registers(picture: Picture) -> Program:
    configuration = Dinov2WithRegistersConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        num_register_tokens=4,
    )
    model = seeded(lambda: Dinov2WithRegistersModel(configuration))
    image, drawn = picture
    scale_xy = torch.tensor([224 / image.shape[3], 224 / image.shape[2]])

    def run(right: bool = False) -> Tensor:
        pixels = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
        tokens = model(pixel_values=pixels).last_hidden_state
        kept = tokens[:, 5:] if right else tokens[:, 1:257]
        features = kept.transpose(1, 2).reshape(1, 48, 16, 16)
        boxes = [drawn * scale_xy.repeat(2)]
        return roi_align(features, boxes, 4, 1 / 14, aligned=True)

    return Program(model, run)


@fault(
    "transformers#37817",
    "register tokens are taken for patches: the first 256 after the class token make the map (coins)",
    *("RA305", "RA3", "RA1"),
    says="register|token",
    right="tokens[:, 5:]: every cell is four places late",
)
def registers_on_coins() -> Program:
    return _registers(coins(480, 640))


@fault(
    "transformers#37817 blood",
    "the same on a blood smear",
    *("RA305", "RA3", "RA1"),
    says="register|token",
    right="tokens[:, 5:]: every cell is four places late",
)
def registers_on_blood() -> Program:
    return _registers(blood(67))


@unseen(
    "maskrcnn-benchmark#328",
    "roi_pool of (0, 0, 7, 7) to 7 x 7 is expected to be the slice [:7, :7]",
    "its coordinates are inclusive: (0, 0, 6, 6)",
)
def inclusive_corners() -> Program:
    model = nn.Identity()

    def run(right: bool = False) -> Tensor:
        features = model(torch.rand(1, 8, 80, 160))
        boxes = torch.tensor([[0.0, 0, 0, 6, 6] if right else [0.0, 0, 0, 7, 7]])
        return roi_pool(features, boxes, 7)

    return Program(model, run)
