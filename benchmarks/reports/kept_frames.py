"""Further reports, kept half: boxes of another picture or of another format. Not to be looked at while tuning."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .program import Program, fault
from .scenes import Tokens, coins, objects, page, photo, resized, resnet, seeded, within


@fault(
    "Chat-Scene#69",
    "the processor resizes and cuts out the middle; boxes are scaled as if all of the picture were left",
    *("RA107", "RA110", "RA1(?!01)"),
    says=r"crop|centre|center|\b58\b|cut",
    right="boxes * 256 / 480 - (58, 16)",
)
def centre_cut_out() -> Program:
    model = seeded(Tokens)
    image, drawn = coins(480, 640)
    drawn = within(drawn, 109, 30, 420, 420)  # what is left

    def run(right: bool = False) -> Tensor:
        seen = resized(image, 256, 341)[..., 16:240, 58:282]
        features = model(seen)[:, 5:].transpose(1, 2).reshape(1, 32, 16, 16)
        boxes = [drawn * torch.tensor([224 / 640, 224 / 480]).repeat(2)]
        if right:
            corner = torch.tensor([58, 16, 58, 16])
            boxes = [drawn * torch.tensor([341 / 640, 256 / 480]).repeat(2) - corner]
        return roi_align(features, boxes, 4, 1 / 14, aligned=True)

    return Program(model, run)


@fault(
    "fiftyone#7560",
    "the picture is squeezed to a square, boxes are scaled as if its longest side alone had been fitted",
    *("RA110", "RA107", "RA1(?!01)"),
    says=r"1\.42|1\.78|aspect|squeez|360|height",
    right="y * 512 / 360",
)
def squeezed_not_fitted() -> Program:
    model = resnet("layer2")
    image, drawn = coins(360, 640)

    def run(right: bool = False) -> Tensor:
        features = model(resized(image, 512, 512))
        boxes = [drawn * torch.tensor([0.8, 512 / 360 if right else 0.8]).repeat(2)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "face_recognition#1156",
    "faces as top, right, bottom, left",
    *("RA2", "RA1(?!01)"),
    says=r"top|right.*left|\[3, ?0, ?1, ?2\]",
    right="boxes[:, [3, 0, 1, 2]]",
)
def top_right_bottom_left() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(480, 640))
        boxes = [objects(480, 640, 6, least=0.1, most=0.2)[:, [1, 2, 3, 0]]]
        if right:
            boxes = [boxes[0][:, [3, 0, 1, 2]]]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


@fault(
    "yolov5#1523",
    "the centre is computed as (x + w) / 2",
    *("RA2(?!04)", "RA107", "RA1(?!01)"),
    says=r"half|x ?/ ?2|\+ w ?/ ?2|centre|center",
    right="x + w / 2: every corner stands at half its place",
)
def half_the_sum() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        corners, sides = drawn[:, :2], drawn[:, 2:] - drawn[:, :2]
        centres = corners + sides / 2 if right else (corners + sides) / 2
        boxes = [torch.cat([centres - sides / 2, centres + sides / 2], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "tensorflow#49834",
    "the annotator saw the photograph upright, as its EXIF orientation says; the loader does not turn it",
    *("RA107", "RA1(?!01)", "RA2(?!0[34])"),
    says=r"rotat|EXIF|turned|orient|\b90\b",
    right="x = y', y = 480 - x', turned back by 90 degrees",
)
def not_turned_upright() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image)
        x1, y1, x2, y2 = drawn.unbind(1)
        boxes = [drawn if right else torch.stack([480 - y2, x1, 480 - y1, x2], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "optics-framework#294",
    "a screenshot of a display of two pixels a point; elements are measured in points",
    *("RA107", "RA1(?!01)"),
    says=r"\b2\b|twice|half|0\.5",
    right="boxes * 2",
)
def points_for_pixels() -> Program:
    model = resnet("layer2")
    screen, elements = page(480, 480, seed=11)

    def run(right: bool = False) -> Tensor:
        features = model(resized(screen, 960, 960))
        boxes = [elements * (2 if right else 1)]
        return roi_align(features, boxes, (3, 24), 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "tf-faster-rcnn#195",
    "the picture is turned by 90 degrees, boxes are turned about their own centres",
    *("RA107", "RA1(?!01)", "RA2(?!04)"),
    says=r"rotat|turned|\b90\b",
    right="x = y, y = 640 - x, of the whole picture",
)
def turned_in_place() -> Program:
    model = resnet("layer2")
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image.rot90(1, (2, 3)))
        x1, y1, x2, y2 = drawn.unbind(1)
        centre_x, centre_y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        sides = (centre_x - height / 2, centre_y - width / 2, centre_x + height / 2, centre_y + width / 2)
        boxes = [torch.stack(sides, 1)]
        if right:
            boxes = [torch.stack([y1, 640 - x2, y2, 640 - x1], 1)]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "pdfplumber#1054",
    "lines are measured on the whole page, the picture shows its crop box",
    *("RA107", "RA1(?!01)", "RA2(?!04)"),
    says=r"\b40\b.*\b45\b|crop|shift|window|corner",
    right="boxes minus (40, 45)",
)
def crop_box() -> Program:
    model = resnet("layer2")
    paper, lines = page(seed=12)

    def run(right: bool = False) -> Tensor:
        features = model(paper[..., 45:757, 40:600])
        boxes = [lines - torch.tensor([40, 45, 40, 45]) * right]
        return roi_align(features, boxes, (4, 32), 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "doctr#772",
    "a random crop: fractions of the page are moved by its corner and not divided by its share of the page",
    *("RA107", "RA110", "RA1(?!01)"),
    says=r"0\.68|0\.69|0\.45|1\.4[56]|2\.2|crop|window|share",
    right="x * 612 / 420, y * 792 / 360",
)
def crop_not_rescaled() -> Program:
    model = resnet("layer2")
    paper, lines = page(seed=13)

    def run(right: bool = False) -> Tensor:
        left, top, width, height = 50, 40, 420, 360
        features = model(paper[..., top : top + height, left : left + width])
        held = within(lines, left, top, width, height)
        fractions = (held - torch.tensor([left, top, left, top])) / torch.tensor([612.0, 792, 612, 792])
        size_wh = torch.tensor([612.0, 792] if right else [width, height])
        boxes = [fractions * size_wh.repeat(2)]
        return roi_align(features, boxes, (4, 32), 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "torchcv#11",
    "interpolate is given width and height: a landscape of 360 x 600 becomes a portrait of 800 x 480",
    *("RA107", "RA110", "RA1(?!01)"),
    says=r"height|width|swap|exchang|aspect|0\.6|2\.22",
    right="x * 480 / 600, y * 800 / 360",
)
def width_for_height() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(resized(photo(360, 600), 800, 480))
        scale_xy = torch.tensor([480 / 600, 800 / 360] if right else [800 / 600, 480 / 360])
        boxes = [objects(360, 600) * scale_xy.repeat(2)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)
