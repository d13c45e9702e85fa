"""Further reports, fitted half: boxes of another picture or of another format."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from .program import Program, fault, unseen
from .scenes import coins, mirrored, objects, patches, photo, resized, resnet, within


@fault(
    "YOLO-World#570",
    "a letterboxed picture, whose bars are ignored: boxes are scaled and not moved",
    *("RA107", "RA1", "RA2(?!04)"),
    says=r"\b80\b|pad|bar|letterbox",
    right="boxes + (0, 80, 0, 80)",
)
def bars_forgotten() -> Program:
    model = resnet("layer2")
    image, drawn = coins(360, 480)

    def run(right: bool = False) -> Tensor:
        enlarged = resized(image, 480, 640)
        features = model(functional.pad(enlarged, (0, 0, 80, 80), value=114 / 255))
        boxes = [drawn * (640 / 480)]
        if right:
            boxes = [boxes[0] + torch.tensor([0, 80, 0, 80])]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@unseen(
    "ultralytics#23967",
    "the bar of a letterbox is rounded to 373 pixels for the picture, to 374 for the boxes",
    "boxes one pixel further up: a sixteenth of a cell",
)
def bar_rounded_otherwise() -> Program:
    model = patches(16, 16)

    def run(right: bool = False) -> Tensor:
        features = model(functional.pad(photo(533, 1280), (0, 0, 373, 374), value=114 / 255))
        boxes = [objects(533, 1280) + torch.tensor([0, 1, 0, 1]) * (373 if right else 374)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


@fault(
    "keras#23518",
    "a random crop moves x by its top and y by its left edge",
    *("RA107", "RA1(?!01)", "RA2(?!04)"),
    says=r"\b200\b|exchang|swap|crop|window",
    right="x minus 200, y minus 40",
)
def crop_moved_otherwise() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        top, left = 40, 200
        features = model(image[..., top : top + 320, left : left + 320])
        held = within(drawn, left, top, 320, 320)
        boxes = [held - torch.tensor([left, top, left, top] if right else [top, left, top, left])]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "Scene-Graph-Benchmark.pytorch#92",
    "pictures are mirrored at random, boxes are not",
    *("RA107", "RA1(?!01)", "RA2(?!04)"),
    says="mirror|flip",
    right="640 - x, and the two swapped",
)
def only_the_picture_mirrored() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image.flip(3))
        boxes = [mirrored((image, drawn))[1] if right else drawn]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "label-studio#407",
    "an annotation tool exports percents of the picture, which are taken for pixels",
    *("RA103", "RA107", "RA1(?!01)"),
    says="100|percent|per cent|6\\.4",
    right="boxes * (6.4, 4.8)",
)
def percents() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        x, y, width, height = _as_percents(drawn).unbind(1)
        boxes = [torch.stack([x, y, x + width, y + height], 1)]
        if right:
            boxes = [boxes[0] * torch.tensor([6.4, 4.8]).repeat(2)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


def _as_percents(boxes_xyxy: Tensor) -> Tensor:
    sides = torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
    return sides / torch.tensor([6.4, 4.8]).repeat(2)


@fault(
    "openslide-python#52",
    "a tile of a slide is read at a level of 1/4; cells are moved by its corner and stay in pixels of the full slide",
    *("RA107", "RA1(?!01)"),
    says=r"\b4\b|0\.25|level|quarter",
    right="boxes / 4",
)
def level_of_a_slide() -> Program:
    model = resnet("layer2")

    def run(right: bool = False) -> Tensor:
        left, top = 800, 400
        level = resized(photo(2048, 2048), 512, 512)
        features = model(level[..., top // 4 : top // 4 + 256, left // 4 : left // 4 + 256])
        corner = torch.tensor([left, top, left, top])
        cells = objects(1024, 1024, 16, least=0.03, most=0.12) + corner
        boxes = [(cells - corner) / (4 if right else 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "darknet#2375",
    "x and y of the top left corner are read as the centre: every box is off by half its size",
    *("RA2(?!04)", "RA1(?!01)"),
    says=r"half|centre|center|top.left|w ?/ ?2",
    right="x, y, x + w, y + h",
)
def corner_for_centre() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        corners, sides = drawn[:, :2], drawn[:, 2:] - drawn[:, :2]
        boxes = [torch.cat([corners - sides / 2, corners + sides / 2], 1)]
        if right:
            boxes = [torch.cat([corners, corners + sides], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "supervision#2360",
    "fractions, y first: y is multiplied by the width and x by the height before they are put in order",
    *("RA107", "RA110", "RA1(?!01)", "RA2(?!04)"),
    says=r"exchang|swap|width.*height|height.*width|0\.625|1\.6",
    right="x * 640 / 400, y * 400 / 640",
)
def scaled_by_the_other_side() -> Program:
    model = resnet("layer2")
    image, drawn = coins(400, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        fractions = (drawn / torch.tensor([640.0, 400, 640, 400]))[:, [1, 0, 3, 2]]
        sides = torch.tensor([400.0, 640.0] if right else [640.0, 400.0])
        boxes = [(fractions * sides.repeat(2))[:, [1, 0, 3, 2]]]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "faster-rcnn.pytorch#647",
    "the batch index is in the last column",
    *("RA207", "RA206"),
    says="column|first|last",
    right="boxes[:, [4, 0, 1, 2, 3]]",
)
def index_last() -> Program:
    model = resnet("layer4")

    def run(right: bool = False) -> Tensor:
        features = model(photo(320, 320))
        drawn = torch.cat([torch.tensor([[15.0, 115, 303, 203]]), objects(320, 320, 7)])
        boxes = torch.cat([drawn, torch.zeros(8, 1)], 1)
        if right:
            boxes = boxes[:, [4, 0, 1, 2, 3]]
        return roi_align(features, boxes, 7, 1 / 32)

    return Program(model, run)
