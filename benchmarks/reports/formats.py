"""Boxes of another format: columns, order, signs, the image's index, types."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import RoIAlign, roi_align

from roialign import roi_align_rotated

from .program import Program, fault, unseen
from .scenes import Picture, blood, coins, mirrored, objects, page, patches, photo, resized, resnet, seeded


@fault(
    "human_object_interaction#14",
    "objects that are missing from a frame have NaN boxes",
    "RA205",
    right="finite boxes in rows 5 and 9, and as many rows",
)
def absent_objects() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(240, 320, 4))
        frames = objects(240, 320, 12).view(4, 3, 4).clone()
        boxes = list(frames)
        if right:
            pooled = roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)
            pooled[[5, 9]] = float("nan")
            return pooled
        frames[1, 2] = frames[3, 0] = float("nan")
        return roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)

    return Program(model, run)


def _clip_features() -> tuple[nn.Module, Tensor]:
    model = seeded(lambda: nn.Sequential(nn.Conv3d(3, 8, (1, 16, 16), (1, 16, 16)), nn.ReLU()))
    return model, torch.tensor([[50.0, 40.0, 180.0, 240.0]])


def _clip() -> Tensor:
    return photo(256, 341, 8).transpose(0, 1)[None]


@fault("SlowFast#81", "a detector's boxes [1, 4] without the clip's index", "RA207", right="[boxes]")
def no_index() -> Program:
    model, boxes = _clip_features()

    def run(right: bool = False) -> Tensor:
        features = model(_clip()).mean(2)
        pool = RoIAlign(7, 1 / 16, 0, aligned=True)
        return pool(features, [boxes] if right else boxes)

    return Program(model, run)


@fault("vision#1953", "the same with the function: a tensor [L, 4] in place of a list", "RA207", right="[boxes]")
def no_list() -> Program:
    model, boxes = _clip_features()

    def run(right: bool = False) -> Tensor:
        features = model(_clip()).mean(2)
        return roi_align(features, [boxes] if right else boxes, 7, 1 / 16)

    return Program(model, run)


@fault("vision#4816", "boxes of whole numbers", "RA505", right="boxes.float()")
def whole_numbers() -> Program:
    model, drawn = _clip_features()

    def run(right: bool = False) -> Tensor:
        features = model(_clip()).mean(2)
        boxes = [drawn if right else drawn.long()]
        return roi_align(features, boxes, 7, 1 / 16)

    return Program(model, run)


@unseen(
    "RoIAlign.pytorch#14",
    "16 frames of 10 boxes, their indices made by repeat",
    "repeat_interleave: every box is read from another frame, where it fits just as well",
)
def repeated_index() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(224, 224, 16))
        drawn = torch.stack([objects(224, 224, 10, seed=frame) for frame in range(16)])
        frames = torch.arange(16.0)
        index = frames.repeat_interleave(10) if right else frames.repeat(10)
        boxes = torch.cat([index[:, None], drawn.view(-1, 4)], 1)
        return roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)

    return Program(model, run)


@unseen(
    "vision#1120",
    "x, y, width, height for training, where each width exceeds its x: torchvision's check passes",
    "corners; three boxes at the top left of a large photograph may be corners as well",
)
def sides_for_corners() -> Program:
    model = seeded(lambda: fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)).train()

    def run(right: bool = False) -> Tensor:
        boxes = torch.tensor([[300.0, 175, 699, 219], [107, 84, 1000, 402], [20, 30, 500, 300]])
        if right:
            boxes[:, 2:] += boxes[:, :2]
        losses = model([photo(600, 1300)[0]], [{"boxes": boxes, "labels": torch.tensor([1, 2, 1])}])
        return torch.stack(list(losses.values())).detach()

    return Program(model, run, gradients=True, comparable=False)


@fault(
    "PaQ-2-PiQ#9",
    "boxes are converted to half like the features, on an image of 4000 pixels",
    "RA109",
    right="boxes in float32",
)
def half_boxes() -> Program:
    return _large_image(torch.float16)


@fault(
    "kornia#4336",
    "the same in bfloat16, for which the operator has no kernel",
    *("RA109", "RA505"),
    right="float32; bfloat16 boxes lose up to 8 pixels as well",
)
def bfloat16_boxes() -> Program:
    return _large_image(torch.bfloat16)


def _large_image(dtype: torch.dtype) -> Program:
    model = patches(8, 16)

    def run(right: bool = False) -> Tensor:
        exact = model(photo(3000, 4000))
        drawn = objects(3000, 4000, 40, least=0.005, most=0.02)
        if right:
            return roi_align(exact, [drawn], 7, spatial_scale=1 / 16, sampling_ratio=2, aligned=True)
        features, boxes = exact.to(dtype), [drawn.to(dtype)]
        pooled = roi_align(features, boxes, 7, spatial_scale=1 / 16, sampling_ratio=2, aligned=True)
        return pooled.float()

    return Program(model, run, comparable=False)  # what the boxes lost does not come back


@fault(
    "tensorrtx#1410",
    "on a portrait, y is clipped to the width instead of the height",
    *("RA1", "RA2(?!04)"),
    says="480",
    right="the boxes before they were clipped: y2 ends at exactly 480, the width of 960 x 480; never drop rows",
)
def clipped_to_the_width() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(960, 480))
        boxes = [objects(960, 480, 12).clone()]
        if not right:
            boxes[0][:, 1::2] = boxes[0][:, 1::2].clamp(max=480)
        return roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)

    return Program(model, run)


@fault(
    "facenet-pytorch#113",
    "left, top, right, bottom of faces are read as x, y, width, height and converted to corners",
    *("RA2(?!04)", "RA1"),
    says=r"x2 ?- ?x1|added|sum of|once too often|2 ?\* ?x1|- boxes\[",
    right="x2 - x1, y2 - y1: they were corners already, so x2 >= 2 x1 and y2 >= 2 y1 in every row",
)
def corners_added_to_corners() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(720, 1280))
        faces = objects(720, 1280, 10, least=0.04, most=0.15)
        faces[0] = torch.tensor([573.6, 86.2, 621.4, 153.7])
        faces[1] = torch.tensor([818.3, 213.4, 850.5, 253.7])
        x, y, width, height = faces.unbind(1)
        boxes = [faces if right else torch.stack([x, y, x + width, y + height], 1)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


def _mosaic(pictures: list[Picture]) -> Program:
    model = resnet("layer2")
    height, width = 240, 320
    tiles = [
        (resized(image, height, width), boxes * torch.tensor([width / image.shape[3], height / image.shape[2]] * 2))
        for image, boxes in pictures
    ]

    def run(right: bool = False) -> Tensor:
        upper = torch.cat([tiles[0][0], tiles[1][0]], 3)
        lower = torch.cat([tiles[2][0], tiles[3][0]], 3)
        features = model(torch.cat([upper, lower], 2))
        over, down = (width, height) if right else (height, width)
        corners = [(0, 0), (over, 0), (0, down), (over, down)]
        boxes = [torch.cat([drawn + torch.tensor([*at, *at]) for (_, drawn), at in zip(tiles, corners, strict=True)])]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "kornia#4550",
    "a mosaic of non-square pictures, boxes moved by the height in x and by the width in y (coins)",
    *("RA1(?!01)", "RA2(?!04)"),
    says=r"mosaic|tile|stitch|concat|torch\.cat|\b80\b",
    right="boxes of the right tiles 80 px further right, of the lower ones 80 px further up",
)
def mosaic_of_coins() -> Program:
    whole = coins(303, 384)
    turned = whole[0].flip(2), _upside_down(whole[1], 303)
    return _mosaic([whole, mirrored(whole), turned, mirrored(turned)])


@fault(
    "kornia#4550 blood",
    "the same of blood smears",
    *("RA1(?!01)", "RA2(?!04)"),
    says=r"mosaic|tile|stitch|concat|torch\.cat|\b80\b",
    right="boxes of the right tiles 80 px further right, of the lower ones 80 px further up",
)
def mosaic_of_blood() -> Program:
    return _mosaic([blood(number) for number in (379, 301, 202, 285)])


def _upside_down(boxes_xyxy: Tensor, height: float) -> Tensor:
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    return torch.stack([x1, height - y2, x2, height - y1], 1)


def _half_mirrored(picture: Picture) -> Program:
    model = resnet("layer3")
    image, drawn = picture
    width = image.shape[3]

    def run(right: bool = False) -> Tensor:
        features = model(image.flip(3))
        boxes = [drawn.clone()]
        boxes[0][:, 0::2] = width - boxes[0][:, 0::2]
        if right:
            boxes = [boxes[0][:, [2, 1, 0, 3]]]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


_EXCHANGED = r"sort|mirror|flip|exchang|\[2, ?1, ?0, ?3\]"


@fault(
    "netspresso-trainer#196",
    "a mirrored picture, x of both corners mirrored and not swapped (coins)",
    *("RA2", "RA1"),
    says=_EXCHANGED,
    right="columns [2, 1, 0, 3] in every row; never drop rows",
)
def half_mirrored_coins() -> Program:
    return _half_mirrored(coins(303, 384))


@fault(
    "netspresso-trainer#196 blood",
    "the same on a blood smear",
    *("RA2", "RA1"),
    says=_EXCHANGED,
    right="columns [2, 1, 0, 3] in every row; never drop rows",
)
def half_mirrored_blood() -> Program:
    return _half_mirrored(blood(246))


def _from_below(seed: int, upper_first: bool) -> Program:
    model = resnet("layer2")
    paper, lines = page(seed=seed)

    def run(right: bool = False) -> Tensor:
        features = model(paper)
        measured = _upside_down(lines, 792)
        if upper_first:
            measured = measured[:, [0, 3, 2, 1]]
        boxes = [lines if right else measured]
        return roi_align(features, boxes, (4, 32), 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "pdfplumber#198",
    "y of a PDF's lines is measured from the bottom of the page",
    *("RA1", "RA2(?!04)"),
    says="bottom|upside|upward|mirror|792 -|flip",
    right="792 - y",
)
def lines_of_a_pdf() -> Program:
    return _from_below(3, upper_first=False)


@fault(
    "ocropy#107",
    "lines of hOCR, measured from the bottom left, upper corner first: y falls within each box",
    *("RA2", "RA1"),
    says="bottom|upward|upside|mirror|792",
    right="792 - y; ordering the corners alone leaves them mirrored",
)
def lines_of_hocr() -> Program:
    return _from_below(5, upper_first=True)


@fault(
    "Rotated_ROIAlign#3",
    "rotated boxes (cx, cy, w, h, angle) are passed to the upright operator as rows of five",
    *("RA206", "RA207", "RA2"),
    says="angle|rotat|radian|cx|last column",
    right="the rotated operator; with an index of 0 in the first column, y, w, h, angle become the box",
)
def rotated_boxes() -> Program:
    model = resnet("layer2")

    def run(right: bool = False) -> Tensor:
        features = model(photo(256, 320))
        upright = objects(256, 320, 10, least=0.1, seed=6)
        angles = torch.rand(10, 1, generator=torch.Generator().manual_seed(6)) * 3.1416 - 1.5708
        boxes = torch.cat([(upright[:, :2] + upright[:, 2:]) / 2, upright[:, 2:] - upright[:, :2], angles], 1)
        if right:
            rows = torch.cat([torch.zeros(10, 1), boxes], 1)
            return roi_align_rotated(features, rows, 7, 1 / 8, compat="mmcv", clockwise=True)
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)
