"""Further reports, kept half: maps, other operators, healthy programs. Not to be looked at while tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import ps_roi_align, roi_align

from roialign import roi_align_rotated

from .program import Program, fault, healthy
from .scenes import Tokens, coins, objects, photo, resized, resnet, seeded


@fault(
    "vision#2613",
    "half a pixel is subtracted from rows of index and corners, the index included",
    *("RA206", "RA207"),
    says=r"0\.5|whole|half|column",
    right="aligned=True, and the rows as they are",
)
def half_an_index() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(320, 480, 3))
        index = torch.arange(3.0).repeat_interleave(4)[:, None]
        boxes = torch.cat([index, objects(320, 480)], 1)
        if right:
            return roi_align(features, boxes, 7, 1 / 16, 2, True)
        return roi_align(features, boxes - 0.5, 7, 1 / 16, 2)

    return Program(model, run)


@fault(
    "RoIAlign.pytorch#8",
    "each of two devices gets half of the images, the boxes keep their index in the whole batch",
    "RA206",
    right="index minus 4 on the second one",
)
def index_of_the_whole_batch() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        pooled = []
        for device, images in enumerate(photo(224, 224, 8).chunk(2)):
            features = model(images)
            index = torch.arange(4.0).repeat_interleave(3)[:, None] + (0 if right else 4 * device)
            boxes = torch.cat([index, objects(224, 224, 12, seed=device)], 1)
            pooled.append(roi_align(features, boxes, 7, 1 / 16, aligned=True))
        return torch.cat(pooled)

    return Program(model, run, comparable=False)


@fault(
    "CMOS#4",
    "windows of 7 x 7 cells are viewed as a map without being put in order",
    *("RA305", "RA3"),
    says="window|order|token|reshap|permut|transpos",
    right="windows.permute(0, 1, 3, 2, 4, 5) before the view",
)
def windows_out_of_order() -> Program:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU()))
    image, drawn = coins(480, 640)
    boxes = [drawn * torch.tensor([224 / 640, 224 / 480]).repeat(2)]

    def run(right: bool = False) -> Tensor:
        cells = model(resized(image, 224, 224)).permute(0, 2, 3, 1)
        windows = cells.view(1, 8, 7, 8, 7, 32).permute(0, 1, 3, 2, 4, 5).reshape(-1, 7, 7, 32)
        if right:
            windows = windows.view(1, 8, 8, 7, 7, 32).permute(0, 1, 3, 2, 4, 5)
        features = windows.reshape(1, 56, 56, 32).permute(0, 3, 1, 2)
        return roi_align(features, boxes, 4, 1 / 4, aligned=True)

    return Program(model, run)


@fault(
    "ReDet#51",
    "angles in radians for an operator that takes degrees",
    *("RA2", "RA1(?!01)"),
    says="degree|radian|angle",
    right="torch.rad2deg of the last column",
)
def radians_for_degrees() -> Program:
    model = resnet("layer2")

    def run(right: bool = False) -> Tensor:
        features = model(photo(384, 512))
        upright = objects(384, 512, 14, least=0.08, most=0.3)
        angles = torch.rand(14, 1, generator=torch.Generator().manual_seed(4)) * 3.1416 - 1.5708
        index, centres = torch.zeros(14, 1), (upright[:, :2] + upright[:, 2:]) / 2
        turns = angles.rad2deg() if right else angles
        boxes = torch.cat([index, centres, upright[:, 2:] - upright[:, :2], turns], 1)
        return roi_align_rotated(features, boxes, 7, 1 / 8, 2)

    return Program(model, run)


def _position_sensitive(scale: float) -> Program:
    body = resnet("layer4")
    body[-1][0].conv1.stride = (1, 1)
    body[-1][0].downsample[0].stride = (1, 1)
    model = seeded(lambda: nn.Sequential(body, nn.Conv2d(512, 10 * 49, 1)))

    def run(right: bool = False) -> Tensor:
        features = model(photo(384, 512))
        boxes = [objects(384, 512)]
        return ps_roi_align(features, boxes, 7, 1 / 16 if right else scale, 2)

    return Program(model, run)


@fault(
    "chainer-light-head-rcnn#8",
    "the last stage of the backbone does not stride; position-sensitive maps are pooled with 1/32 nonetheless",
    "RA106",
    says=r"0\.0625|1 ?/ ?16",
    right="spatial_scale=1/16",
)
def last_stage_without_stride() -> Program:
    return _position_sensitive(1 / 32)


@healthy("position-sensitive", "the same with the right scale")
def position_sensitive() -> Program:
    return _position_sensitive(1 / 16)


@healthy(
    "dinov2#77", "a picture is cut to a multiple of 14 at the right and the bottom; objects reach into what is gone"
)
def multiple_of_the_patch() -> Program:
    model = seeded(Tokens)

    def run(right: bool = False) -> Tensor:
        features = model(photo(512, 690)[..., :504, :686])[:, 5:].transpose(1, 2).reshape(1, 32, 36, 49)
        boxes = torch.cat([objects(512, 690), torch.tensor([[600.0, 430, 690, 512], [0, 470, 80, 512]])])
        return roi_align(features, [boxes], 7, 1 / 14, aligned=True)

    return Program(model, run)


@healthy("mmpose#665", "people's boxes enlarged 1.25 times and widened to 3:4, some beyond the frame")
def enlarged_people() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        people = torch.cat([objects(480, 640, 7, least=0.15, most=0.4), torch.tensor([[0.0, 300, 60, 480]])])
        centres, sides = (people[:, :2] + people[:, 2:]) / 2, people[:, 2:] - people[:, :2]
        height = torch.maximum(sides[:, 1], sides[:, 0] * 4 / 3) * 1.25
        reach = torch.stack([height * 3 / 4, height], 1) / 2
        return roi_align(model(photo(480, 640)), [torch.cat([centres - reach, centres + reach], 1)], (16, 12), 1 / 16)

    return Program(model, run)


@healthy("video in one batch", "clips [N, T] flattened to frames n * T + t, boxes likewise")
def frames_of_clips() -> Program:
    model = resnet("layer3")
    clips, frames = 2, 4

    def run(right: bool = False) -> Tensor:
        features = model(photo(192, 256, clips * frames).view(clips, frames, 3, 192, 256).flatten(0, 1))
        drawn = torch.stack([objects(192, 256, 3, seed=seed) for seed in range(clips * frames)])
        index = (torch.arange(clips)[:, None] * frames + torch.arange(frames)).flatten().repeat_interleave(3)
        return roi_align(features, torch.cat([index[:, None].float(), drawn.flatten(0, 1)], 1), 7, 1 / 16, 2, True)

    return Program(model, run)


@healthy("turned", "a picture and its three quarter turns, boxes turned with it")
def quarter_turns() -> Program:
    model = resnet("layer2")
    image, drawn = coins(303, 384)

    def run(right: bool = False) -> Tensor:
        seen, boxes = image, drawn
        for _ in range(4):
            pooled = roi_align(model(seen), [boxes], 7, 1 / 8, aligned=True)
            x1, y1, x2, y2 = boxes.unbind(1)
            boxes = torch.stack([y1, seen.shape[3] - x2, y2, seen.shape[3] - x1], 1)
            seen = seen.rot90(1, (2, 3))
        return pooled

    return Program(model, run)


@healthy("half precision", "features and boxes in half precision, on 224 x 224 pixels, where it does no harm")
def harmless_half() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(photo(224, 224)).half()
        return roi_align(features, [objects(224, 224, least=0.2, most=0.5).half()], 7, 1 / 16, 2, True).float()

    return Program(model, run)
