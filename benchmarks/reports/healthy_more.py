"""More programs that are right: several inputs, crops, odd sizes, offsets taken off by hand, volumes."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import roi_align

from .grids import unpadded_stem
from .program import Program, healthy
from .scenes import Picture, blood, coins, objects, page, photo, resized, resnet, seeded


class _TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colour, self.flow = resnet("layer3"), resnet("layer2")

    def forward(self, colour: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        return self.colour(colour), self.flow(flow)


@healthy("two streams", "two networks, two input sizes, boxes scaled for each; and thin lines to 8 x 64")
def two_streams() -> Program:
    model = seeded(_TwoStreams)

    def run(right: bool = False) -> Tensor:
        colour, flow = model(photo(448, 448), photo(224, 224))
        fractions = objects(1, 1, 10)
        thin = fractions.clone()
        thin[:, 3] = thin[:, 1] + 0.03
        roi_align(colour, [fractions * 448], 7, 1 / 16, aligned=True)
        roi_align(flow, [fractions * 224], 7, 1 / 8, aligned=True)
        return roi_align(flow, [thin * 224], (8, 64), 1 / 8, aligned=True)

    return Program(model, run)


@healthy("crops", "people are cut out of a frame, and their parts out of the features of the crops")
def crops_of_people() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        people = objects(480, 640, 6, least=0.2, most=0.5)
        crops = roi_align(photo(480, 640), [people], (256, 128), 1.0, 2, True)
        parts = torch.tensor([[0.0, 0, 128, 64], [0.0, 64, 128, 160], [0.0, 160, 128, 256]])
        return roi_align(model(crops), [parts] * 6, 4, 1 / 16, aligned=True)

    return Program(model, run)


@healthy("tracker", "a detector's results are scaled into its own frame before they are pooled again")
def tracker() -> Program:
    model = seeded(
        lambda: fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=20
        )
    )

    def run(right: bool = False) -> Tensor:
        for height in (480, 481):
            frame = photo(height, 640)[0]
            found = model([frame])[0]["boxes"]
            images, _ = model.transform([frame])
            seen_h, seen_w = images.image_sizes[0]
            boxes = found * torch.tensor([seen_w / 640, seen_h / height]).repeat(2)
            pooled = model.roi_heads.box_roi_pool(model.backbone(images.tensors), [boxes], images.image_sizes)
        return pooled

    return Program(model, run, model.roi_heads.box_roi_pool)


def _offset_taken_off(scale: float) -> Program:
    model = unpadded_stem()

    def run(right: bool = False) -> Tensor:
        features = model(photo(512, 512))
        boxes = objects(512, 512, 30, least=0.03, most=0.1)
        boxes = boxes[(boxes.amin(1) > 16) & (boxes.amax(1) < 496)]
        return roi_align(features, [(boxes - 12.5) * (0.25 / scale)], 7, scale, 2)

    return Program(model, run)


@healthy("detectron2#801 in cells", "the 12.5 px of an unpadded stem are subtracted by hand: (boxes - 12.5) / 4")
def offset_in_cells() -> Program:
    return _offset_taken_off(1.0)


@healthy("detectron2#801 in pixels", "the same with the scale: boxes - 12.5 and 1/4")
def offset_in_pixels() -> Program:
    return _offset_taken_off(1 / 4)


@healthy("ConvNeXt", "300 x 460, not a multiple of 32: the map leaves out the edge, objects do not")
def convnext() -> Program:
    model = seeded(lambda: torchvision.models.convnext_tiny(weights=None).features)

    def run(right: bool = False) -> Tensor:
        edge = torch.tensor([[400.0, 240, 460, 300], [420.0, 5, 460, 60]])
        boxes = torch.cat([objects(300, 460, 20), edge])
        return roi_align(model(photo(300, 460)), [boxes], 7, 1 / 32, aligned=True)

    return Program(model, run)


@healthy("four by five cells", "layer4 of a ResNet on 97 x 131")
def few_cells() -> Program:
    model = resnet("layer4")

    def run(right: bool = False) -> Tensor:
        return roi_align(model(photo(97, 131)), [objects(97, 131, 20, least=0.2, most=0.6)], 3, 1 / 32, aligned=True)

    return Program(model, run)


@healthy("test-time augmentation", "a photograph, its mirror image, and 1.5 times as large, boxes mapped to each")
def augmented() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        image, boxes = photo(288, 400), objects(288, 400)
        flipped = boxes.clone()
        flipped[:, [0, 2]] = 400 - boxes[:, [2, 0]]
        larger = functional.interpolate(image, (432, 600))
        for seen, mapped in ((image, boxes), (image.flip(3), flipped), (larger, boxes * 1.5)):
            pooled = roi_align(model(seen), [mapped], 7, 1 / 16, aligned=True)
        return pooled

    return Program(model, run)


@healthy("CT volume", "slices become the batch; boxes are pooled from every third slice that they cross")
def slices_of_a_volume() -> Program:
    model = seeded(
        lambda: nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 16, (1, 4, 4), (1, 4, 4)))
    )

    def run(right: bool = False) -> Tensor:
        volume = photo(128, 160, 24)[:, :1].transpose(0, 1)[None]
        features = model(volume).permute(0, 2, 1, 3, 4).flatten(0, 1)
        drawn = objects(128, 160, 6, least=0.1)
        reach = [(0, 6), (3, 20), (10, 12), (18, 24), (5, 9), (1, 23)]
        rows = [[z, *box] for box, ends in zip(drawn.tolist(), reach, strict=True) for z in range(*ends, 3)]
        return roi_align(features, torch.tensor(rows), 5, 1 / 4, aligned=True)

    return Program(model, run)


def _search_regions(picture: Picture) -> Program:
    model = resnet("layer3")
    image, drawn = picture

    def run(right: bool = False) -> Tensor:
        features = functional.pad(model(image), (4, 4, 4, 4))
        centres, sides = (drawn[:, :2] + drawn[:, 2:]) / 2, drawn[:, 2:] - drawn[:, :2]
        regions = torch.cat([centres - sides, centres + sides], 1)
        return roi_align(features, [regions + 64], 15, 1 / 16, 2, True)

    return Program(model, run)


@healthy("siam-mot#8", "maps are padded by 4 cells, so search regions may leave the image (coins)")
def search_regions_of_coins() -> Program:
    return _search_regions(coins(480, 640))


@healthy("siam-mot#8 blood", "the same on a blood smear")
def search_regions_of_blood() -> Program:
    return _search_regions(blood(384))


@healthy("PDF", "lines measured from the bottom are flipped, the page is drawn at 1.5 pixels per point")
def turned_over() -> Program:
    model = resnet("layer3")
    paper, lines = page(seed=4)

    def run(right: bool = False) -> Tensor:
        measured = torch.stack([lines[:, 0], 792 - lines[:, 3], lines[:, 2], 792 - lines[:, 1]], 1)
        x1, y1, x2, y2 = measured.unbind(1)
        boxes = torch.stack([x1, 792 - y2, x2, 792 - y1], 1) * 1.5
        return roi_align(model(resized(paper, 1188, 918)), [boxes], (2, 40), 1 / 16, aligned=True)

    return Program(model, run)
