"""Fresh reports, written after the doctor was last tuned: boxes of another picture or of another format."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, roi_align

from .program import Program, fault, healthy
from .scenes import coins, mirrored, objects, photo, resized, resnet, seeded, within


@fault(
    "mmdetection#2805",
    "pictures are turned upside down, boxes are mirrored from left to right",
    *("RA107", "RA212", "RA1(?!01)", "RA2(?!04)"),
    says="flip|mirror|vertical|upside|bottom",
    right="y = 480 - y, the two exchanged, and x as it was",
)
def mirrored_the_other_way() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image.flip(2))
        x1, y1, x2, y2 = drawn.unbind(1)
        boxes = [torch.stack([640 - x2, y1, 640 - x1, y2], 1)]
        if right:
            boxes = [torch.stack([x1, 480 - y2, x2, 480 - y1], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "albumentations#1167",
    "bars are added to a picture; the moved boxes are divided by its old sides and multiplied by its new ones",
    *("RA107", "RA110", "RA1(?!01)"),
    says=r"\b480\b|\b400\b|1\.33|0\.75|1\.5|0\.66|\bpad|\bbars?\b",
    right="boxes * (480 / 640, 400 / 600): moved by the bars and not scaled",
)
def bars_taken_for_an_enlargement() -> Program:
    model = resnet("layer2")
    image, drawn = coins(400, 480)

    def run(right: bool = False) -> Tensor:
        features = model(functional.pad(image, (80, 80, 100, 100)))
        fractions = (drawn + torch.tensor([80, 100, 80, 100])) / torch.tensor([480.0, 400]).repeat(2)
        size_wh = torch.tensor([480.0, 400] if right else [640.0, 600])
        boxes = [fractions * size_wh.repeat(2)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "YOLOX#994",
    "a mosaic of four pictures, whose boxes are clipped to the size of one",
    *("RA213", "RA204", "RA107", "RA2"),
    says=r"clip|clamp|mosaic|tile|\b320\b|\b240\b",
    right="clipped to 640 x 480, the size of the mosaic",
)
def clipped_to_one_tile() -> Program:
    model = resnet("layer2")
    first = coins(240, 320)
    second = mirrored(first)

    def run(right: bool = False) -> Tensor:
        rows = [torch.cat([first[0], second[0]], 3), torch.cat([second[0], first[0]], 3)]
        features = model(torch.cat(rows, 2))
        corners = torch.tensor([[0, 0], [320, 0], [0, 240], [320, 240]]).repeat(1, 2)
        tiles = (first[1], second[1], second[1], first[1])
        placed = torch.cat([drawn + corner for drawn, corner in zip(tiles, corners, strict=True)])
        width, height = (640, 480) if right else (320, 240)
        x1, y1, x2, y2 = placed.unbind(1)
        boxes = [torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run, comparable=False)


@fault(
    "GroundingDINO#259",
    "predicted centres and sizes go where the top left corner and size are wanted",
    *("RA2(?!04)", "RA1(?!01)"),
    says=r"half|centre|center|w ?/ ?2",
    right="the corner is the centre minus half of the size",
)
def centre_for_corner() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        size_wh = torch.tensor([640.0, 480])
        predicted = box_convert(drawn / size_wh.repeat(2), "xyxy", "cxcywh")
        corners, sides = predicted[:, :2], predicted[:, 2:]
        if right:
            corners = corners - sides / 2
        boxes = [torch.cat([corners, corners + sides], 1) * size_wh.repeat(2)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "rslearn#486",
    "the last window of a row or column is moved back into the picture; boxes are moved as if all kept their distance",
    *("RA107", "RA1(?!01)", "RA2(?!04)"),
    says=r"window|tile|crop|corner|\b128\b|\b384\b|\b224\b|\b32\b",
    right="boxes minus the corner that each window has: the last ones begin at x = 384 and y = 224",
)
def last_windows_moved_back() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        planned = [(top, left) for top in (0, 256) for left in (0, 256, 512)]
        cut = [(min(top, 480 - 256), min(left, 640 - 256)) for top, left in planned]
        features = model(torch.cat([image[..., top : top + 256, left : left + 256] for top, left in cut]))
        held = [within(drawn, left, top, 256, 256) for top, left in cut]
        corners = [torch.tensor([left, top, left, top]) for top, left in (cut if right else planned)]
        boxes = [some - corner for some, corner in zip(held, corners, strict=True)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@healthy("SlowFast#493", "frames of a clip are resized by their short side, boxes by that one factor")
def short_side() -> Program:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv3d(3, 16, (3, 4, 4), (1, 4, 4), (1, 0, 0)),
            nn.ReLU(),
            nn.Conv3d(16, 32, (1, 4, 4), (1, 4, 4)),
        )
    )

    def run(right: bool = False) -> Tensor:
        frames = resized(photo(360, 640, 4), 256, 455)
        features = model(frames.transpose(0, 1)[None]).mean(2)
        boxes = [objects(360, 640, 5, least=0.15) * (256 / 360)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)
