"""Further reports, fitted half: maps and levels; and healthy programs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from .program import Program, fault, healthy
from .scenes import Tokens, coins, objects, photo, resized, resnet, seeded


@fault(
    "lightly-train#119",
    "tokens [N, cells, C] are reshaped to [N, C, H, W] without a transpose",
    *("RA305", "RA3"),
    says="token|transpos|permut|reshape",
    right="tokens.transpose(1, 2).reshape(...)",
)
def tokens_not_transposed() -> Program:
    model = seeded(Tokens)

    def run(right: bool = False) -> Tensor:
        tokens = model(photo(224, 336))[:, 5:]
        features = (tokens.transpose(1, 2) if right else tokens).reshape(1, 32, 16, 24)
        return roi_align(features, [objects(224, 336)], 7, 1 / 14, aligned=True)

    return Program(model, run)


@fault(
    "dinov2#153",
    "the tokens of a portrait become a map whose width and height are swapped",
    *("RA304", "RA305"),
    says="height|width|swap|exchang|rows|columns",
    right="reshape(1, 32, 30, 16): 30 rows, 16 columns",
)
def rows_for_columns() -> Program:
    model = seeded(Tokens)

    def run(right: bool = False) -> Tensor:
        tokens = model(photo(420, 224))[:, 5:].transpose(1, 2)
        features = tokens.reshape(1, 32, 30, 16) if right else tokens.reshape(1, 32, 16, 30)
        return roi_align(features, [objects(420, 224)], 7, 1 / 14, aligned=True)

    return Program(model, run)


@fault(
    "vision#3747",
    "an image of 11 x 100 is padded to 32 x 128: the pooler infers 1 from the heights, where the backbone has 1/4",
    "RA4",
    says=r"1 ?/ ?4|0\.25|stride (is )?4|height|pad",
    right="the scales of the backbone, 1/4 to 1/32: those of its padded maps",
)
def very_oblong() -> Program:
    model = seeded(lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None))
    transform = GeneralizedRCNNTransform(100, 100, [0.5] * 3, [0.1] * 3)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)

    def run(right: bool = False) -> Tensor:
        images, _ = transform([photo(100, 900)[0]])
        features = model(images.tensors)
        boxes = [objects(*images.image_sizes[0], 5, least=0.3, most=0.6)]
        if right:
            pooler.scales, pooler.map_levels = [1 / 4, 1 / 8, 1 / 16, 1 / 32], LevelMapper(2, 5)
        return pooler(features, boxes, images.image_sizes)

    return Program(model, run, pooler)


@fault(
    "tensorpack#594",
    "the maps of a pyramid are listed from the coarsest to the finest",
    "RA402",
    right="from the finest to the coarsest",
)
def coarsest_first() -> Program:
    model = seeded(lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None))
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)

    def run(right: bool = False) -> Tensor:
        maps = model(photo(384, 512))
        features = {name: maps[name] for name in (("0", "1", "2", "3") if right else ("3", "2", "1", "0"))}
        boxes = [objects(384, 512, 20, least=0.05, most=0.9)]
        return pooler(features, boxes, [(384, 512)])

    return Program(model, run, pooler)


@healthy("letterbox", "a picture between two bars, boxes scaled and moved by the upper one")
def letterbox() -> Program:
    model = resnet("layer2")
    image, drawn = coins(360, 480)

    def run(right: bool = False) -> Tensor:
        seen = functional.pad(resized(image, 480, 640), (0, 0, 80, 80), value=114 / 255)
        return roi_align(model(seen), [drawn * (640 / 480) + torch.tensor([0, 80, 0, 80])], 7, 1 / 8, aligned=True)

    return Program(model, run)


@healthy("dense proposals", "every position of a grid, at three sizes, like the anchors of a region proposal network")
def dense_proposals() -> Program:
    model = resnet("layer3")
    image, _ = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        y, x = torch.meshgrid(torch.arange(16.0, 480, 48), torch.arange(16.0, 640, 48), indexing="ij")
        centres = torch.stack([x.flatten(), y.flatten()], 1)
        boxes = torch.cat([torch.cat([centres - side / 2, centres + side / 2], 1) for side in (32, 64, 128)])
        return roi_align(model(image), [boxes], 7, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("pairs", "two views of three photographs in one batch; one of them has no boxes")
def pairs() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        first = photo(256, 384, 3)
        second = functional.interpolate(first, (256, 384)).flip(0)
        boxes = [objects(256, 384, 5, seed=seed) for seed in range(3)]
        boxes[1] = boxes[1][:0]
        return roi_align(model(torch.cat([first, second])), [*boxes, *boxes[::-1]], 7, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("shapes only", "a test of a head's shapes: ones for features, boxes of some pixels, no image")
def shapes_only() -> Program:
    model = seeded(lambda: nn.Linear(8 * 7 * 7, 4))

    def run(right: bool = False) -> Tensor:
        features = torch.ones(2, 8, 5, 5)
        boxes = [torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3]]), torch.tensor([[0.0, 1, 3, 4]])]
        head: Tensor = model(roi_align(features, boxes, 7).flatten(1))
        return head

    return Program(model, run)


@healthy("centre crop", "the short side becomes 256, the middle is cropped; boxes follow, except those cut off")
def centre_crop() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        seen = resized(image, 256, 341)[..., 16:240, 58:282]
        boxes = drawn * torch.tensor([341 / 640, 256 / 480]).repeat(2) - torch.tensor([58, 16, 58, 16])
        inside = ((boxes[:, :2] > -10) & (boxes[:, 2:] < 234)).all(1)
        return roi_align(model(seen), [boxes[inside]], 7, 1 / 8, aligned=True)

    return Program(model, run)
