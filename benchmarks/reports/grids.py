"""A wrong idea of where the cells of a map lie, or of which map it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import inception_v3, resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import MultiScaleRoIAlign, roi_align

from .program import Program, fault
from .scenes import objects, photo, resnet, seeded


@fault(
    "maskrcnn-benchmark#1123",
    "layer3 no longer strides, the scale stays 1/16",
    "RA106",
    says=r"0\.125|1 ?/ ?8",
    right="spatial_scale=1/8",
)
def stride_taken_out() -> Program:
    model = resnet("layer3")
    model[-1][0].conv1.stride = (1, 1)
    model[-1][0].downsample[0].stride = (1, 1)

    def run(right: bool = False) -> Tensor:
        features = model(photo(600, 800))
        boxes = [objects(600, 800)]
        return roi_align(features, boxes, 7, spatial_scale=1 / 8 if right else 1 / 16, sampling_ratio=2)

    return Program(model, run)


class _Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        body = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        self.body = IntermediateLayerGetter(body, {"layer2": "p3", "layer3": "p4", "layer4": "p5"})
        channels = {"p3": 512, "p4": 1024, "p5": 2048}
        self.lateral = nn.ModuleDict({name: nn.Conv2d(count, 64, 1) for name, count in channels.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self.lateral[name](map_) for name, map_ in self.body(images).items()}


@fault(
    "vision#3048",
    "three levels of a dilated network, all of stride 8, in one pooler",
    "RA4",
    says="never|same stride|no box",
    right="one level: two of the three can never be given a box",
)
def levels_of_one_stride() -> Program:
    model = seeded(_Dilated)
    pooler = MultiScaleRoIAlign(["p3", "p4", "p5"], 7, 2)

    def run(right: bool = False) -> Tensor:
        features = model(photo(256, 368))
        boxes = [torch.cat([objects(256, 368, 6), torch.tensor([[0.0, 0.0, 360.0, 250.0]])])]
        return pooler(features, boxes, [(256, 368)])

    return Program(model, run, pooler, comparable=False)


def unpadded_stem() -> nn.Module:
    """Stride 4; its first cell is centred at 12.5 pixels."""
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 9, 2), nn.ReLU(), nn.Conv2d(16, 24, 9, 2), nn.ReLU()))


def _off_the_stem(scale: float | None) -> Program:
    model = unpadded_stem()

    def run(right: bool = False) -> Tensor:
        features = model(photo(512, 512))
        boxes = [objects(512, 512, least=0.03, most=0.1)]
        if right:
            return roi_align(features, [boxes[0] - 10.5], 7, 1 / 4, 2, True)
        return roi_align(
            features, boxes, 7, spatial_scale=scale or features.shape[-1] / 512, sampling_ratio=2, aligned=True
        )

    return Program(model, run)


@fault(
    "detectron2#801",
    "an unpadded stem, where only the stride was considered",
    *("RA108", "RA1"),
    says=r"12\.5",
    right="cell (0, 0) is centred at 12.5 px: (boxes - 10.5) with the same scale; never a new spatial_scale",
)
def unpadded() -> Program:
    return _off_the_stem(1 / 4)


@fault(
    "detectron2#801 by sizes",
    "the same, the stride taken for the ratio of the sizes",
    *("RA106", "RA108", "RA1"),
    says=r"12\.5",
    right="stride 4 and offset 12.5; 122/512 is a ratio of sizes",
)
def ratio_of_sizes() -> Program:
    return _off_the_stem(None)


@fault(
    "CAFE#7",
    "Inception-v3, whose stem is not padded: fractions times the size of the map",
    *("RA106", "RA108", "RA1"),
    says=r"13\.5",
    right="stride 8 and offset 13.5: (pixels - 13.5) / 8",
)
def fractions_of_the_map() -> Program:
    names = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    whole = seeded(lambda: inception_v3(weights=None, init_weights=False, aux_logits=False))
    model = nn.Sequential(*(getattr(whole, name) for name in (*names, "maxpool2", "Mixed_5b")))

    def run(right: bool = False) -> Tensor:
        features = model(photo(360, 640))
        rows, columns = features.shape[-2:]
        boxes = [objects(1, 1, 12) * torch.tensor([columns, rows, columns, rows])]
        if right:
            boxes = [(objects(360, 640, 12) - 13.5) / 8]
        return roi_align(features, boxes, 5)

    return Program(model, run)


@fault(
    "FeatUp#11",
    "patches of 14 enlarged 16 times: 256 cells for 224 pixels, pooled as if there were one for each",
    "RA106",
    says=r"1\.14|8 ?/ ?7|0\.875",
    right="spatial_scale=8/7: the map is finer than the image",
)
def finer_than_the_image() -> Program:
    def build() -> nn.Module:
        doublings = [
            layer
            for _ in range(4)
            for layer in (nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(16, 16, 3, padding=1))
        ]
        return nn.Sequential(nn.Conv2d(3, 16, 14, 14), *doublings)

    model = seeded(build)

    def run(right: bool = False) -> Tensor:
        features = model(photo(224, 224))
        boxes = [objects(224, 224)]
        return roi_align(features, boxes, 7, spatial_scale=8 / 7 if right else 1.0, sampling_ratio=2, aligned=True)

    return Program(model, run)
