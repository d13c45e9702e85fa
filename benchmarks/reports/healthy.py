"""Programs that are right: what people do with care, or in an unusual way."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign, roi_align

from .program import Program, healthy
from .scenes import Tokens, objects, padded_batch, photo, resized, resnet, seeded


@healthy("video actors", "fractions become cells; actors that are missing have boxes of zeros and are masked later")
def video_actors() -> Program:
    model = resnet("layer3")
    frames, actors = 4, 8

    def run(right: bool = False) -> Tensor:
        features = model(photo(270, 480, frames))
        rows, columns = features.shape[-2:]
        corners = torch.stack([objects(1, 1, actors, seed=frame) for frame in range(frames)])
        centred = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)
        centred[:, 6:] = 0
        x, y, width, height = centred.unbind(-1)
        sides = ((x - width / 2) * columns, (y - height / 2) * rows, (x + width / 2) * columns, (y + height / 2) * rows)
        index = torch.arange(float(frames)).repeat_interleave(actors)[:, None]
        boxes = torch.cat([index, torch.stack(sides, -1).view(-1, 4)], 1)
        return roi_align(features, boxes, 5)[(width > 0).view(-1)]

    return Program(model, run)


@healthy("face crops", "eyes and mouths are cut out of pictures of faces, at scale 1")
def face_crops() -> Program:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid()))

    def run(right: bool = False) -> Tensor:
        faces = model(photo(512, 512, 2))
        eyes = torch.tensor([[190.0, 220.0, 250.0, 280.0], [270.0, 220.0, 330.0, 280.0]])
        roi_align(faces, [eyes, eyes + 6], 80, aligned=True)
        return roi_align(faces, [eyes[:1] + 40] * 2, 120, aligned=True)

    return Program(model, run)


@healthy("Mask R-CNN", "a training step, in which masks are cropped as well")
def mask_rcnn_training() -> Program:
    model = seeded(
        lambda: MaskRCNN(
            resnet_fpn_backbone(backbone_name="resnet18", weights=None),
            3,
            min_size=192,
            max_size=320,
            box_batch_size_per_image=64,
        )
    ).train()

    def run(right: bool = False) -> Tensor:
        images, targets = [], []
        for height, width in ((240, 320), (300, 260)):
            boxes = objects(height, width, 4, least=0.15, most=0.5)
            masks = torch.zeros(4, height, width, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
            images.append(photo(height, width)[0])
            targets.append({"boxes": boxes, "labels": torch.tensor([1, 2, 1, 2]), "masks": masks})
        loss = torch.stack(list(model(images, targets).values())).sum()
        loss.backward()
        return loss.detach()

    return Program(model, run, gradients=True)


class _Letterboxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 16, 16)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        ratio = 1024 / max(height, width)
        image = resized(image, round(height * ratio), round(width * ratio))
        padded = functional.pad(image, (0, 1024 - image.shape[-1], 0, 1024 - image.shape[-2]))
        map_: Tensor = self.patches(padded)
        return map_


@healthy("SAM", "the longest side becomes 1024, the rest is padded, boxes times the ratio")
def letterboxed() -> Program:
    model = seeded(_Letterboxed)

    def run(right: bool = False) -> Tensor:
        features = model(photo(480, 640))
        return roi_align(features, [objects(480, 640) * 1.6], 7, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("dilated", "a ResNet-50 of output stride 8, with the right scale")
def dilated() -> Program:
    whole = seeded(lambda: torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]))
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    model = nn.Sequential(*(getattr(whole, name) for name in names))

    def run(right: bool = False) -> Tensor:
        return roi_align(model(photo(200, 304)), [objects(200, 304)], 7, 1 / 8, aligned=True)

    return Program(model, run)


@healthy("shifted by hand", "aligned=False and boxes moved by half a cell")
def shifted_by_hand() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(320, 480))
        boxes = objects(320, 480)
        roi_align(features, [boxes / 16 - 0.5], 7, sampling_ratio=2)
        return roi_align(features, [boxes], 7, 1 / 16, 2, True)

    return Program(model, run)


@healthy("mixed sizes", "three photographs in a batch padded at the bottom and the right, boxes of each in its pixels")
def mixed_sizes() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        sizes = [(240, 320), (416, 256), (96, 128)]
        boxes = [objects(height, width, 9) for height, width in sizes]
        return roi_align(model(padded_batch(sizes)), boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("ViT/14", "class and register tokens are left out, the others make the map")
def patch_tokens() -> Program:
    model = seeded(Tokens)

    def run(right: bool = False) -> Tensor:
        tokens = model(photo(504, 700))
        features = tokens[:, 5:].transpose(1, 2).reshape(1, 32, 36, 50)
        return roi_align(features, [objects(504, 700)], 7, 1 / 14, aligned=True)

    return Program(model, run)


@healthy("enlarged features", "features are resized to the image and pooled with scale 1")
def enlarged_features() -> Program:
    model = resnet("layer2")

    def run(right: bool = False) -> Tensor:
        features = resized(model(photo(300, 452)), 300, 452)
        return roi_align(features, [objects(300, 452)], 7, 1.0, 2, True)

    return Program(model, run)


@healthy("tiles", "four overlapping tiles; each pools the boxes centred in it, some cut by its edge")
def tiles() -> Program:
    model = resnet("layer2")

    def run(right: bool = False) -> Tensor:
        image, drawn = photo(448, 448), objects(448, 448, 40, least=0.03, most=0.15)
        corners = [(x, y) for y in (0, 192) for x in (0, 192)]
        features = model(torch.cat([image[..., y : y + 256, x : x + 256] for x, y in corners]))
        centres = (drawn[:, :2] + drawn[:, 2:]) / 2
        boxes = []
        for corner in corners:
            at = torch.tensor(corner)
            held = ((centres >= at) & (centres < at + 256)).all(1)
            boxes.append(drawn[held] - at.repeat(2))
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@healthy("context", "boxes enlarged 1.5 times, not clipped, and the whole image as one more")
def context() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        drawn = objects(320, 480, 20)
        centres, reach = (drawn[:, :2] + drawn[:, 2:]) / 2, (drawn[:, 2:] - drawn[:, :2]) * 0.75
        enlarged = torch.cat([centres - reach, centres + reach], 1)
        boxes = torch.cat([enlarged, torch.tensor([[0.0, 0, 480, 320]])])
        return roi_align(model(photo(320, 480)), [boxes], 7, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("FPN_Tensorflow#39", "levels chosen by hand among three, and a pooler of five with 'pool'")
def levels_by_hand() -> Program:
    model = seeded(lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None))
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3", "pool"], 7, 2)

    def run(right: bool = False) -> Tensor:
        features = model(photo(512, 704))
        boxes = objects(512, 704, 30, least=0.03, most=0.9)
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        levels = (4 + torch.log2(sides / 224 + 1e-8)).floor().clamp(3, 5).int()
        pooled = torch.zeros(30, 256, 7, 7)
        for level in (3, 4, 5):
            chosen = levels == level
            pooled[chosen] = roi_align(features[str(level - 2)], [boxes[chosen]], 7, 1 / 2**level, 2)
        return pooler(features, [boxes], [(512, 704)])

    return Program(model, run, pooler)


@healthy("bird's eye", "a lidar map of 0.8 m per cell, boxes in metres, moved to its corner")
def birds_eye() -> Program:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 2, 2)))

    def run(right: bool = False) -> Tensor:
        features = model(torch.rand(1, 4, 176, 200))
        boxes_m = objects(70, 80, 25, least=0.02, most=0.08) - torch.tensor([40.0, 0, 40, 0])
        return roi_align(features, [boxes_m + torch.tensor([40.0, 0, 40, 0])], 7, 1 / 0.8, aligned=True)

    return Program(model, run)
