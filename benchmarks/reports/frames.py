"""Boxes in the pixels of another picture than the one that entered the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from .program import Program, fault, unseen
from .scenes import Picture, blood, coins, objects, padded_batch, page, patches, photo, resized, resnet, seeded


def _tracking(frame_hw: tuple[int, int], seen_hw: tuple[int, int]) -> Program:
    model = seeded(lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None))
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)

    def run(right: bool = False) -> Tensor:
        frame = photo(*frame_hw)
        features = model(resized(frame, *seen_hw))
        boxes = [objects(*frame_hw)]
        if right:
            boxes = [objects(*seen_hw)]
        return pooler(features, boxes, [seen_hw])

    return Program(model, run, pooler)


@fault(
    "MaskTrackRCNN#12",
    "detections already scaled back to the frame are pooled from the reduced frame",
    "RA107",
    says=r"0\.5|360|half",
    right="boxes * 0.5",
)
def reduced_frame() -> Program:
    return _tracking((720, 1280), (360, 640))


@unseen("MaskTrackRCNN#12 enlarged", "the same with enlarged frames: all boxes are inside", "boxes * 2")
def enlarged_frame() -> Program:
    return _tracking((270, 480), (540, 960))


def _second_look(detector: Callable[..., nn.Module], frame_hw: tuple[int, int]) -> Program:
    model = seeded(
        lambda: detector(weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=20)
    )

    def run(right: bool = False) -> Tensor:
        frame = photo(*frame_hw)[0]
        boxes = [model([frame])[0]["boxes"]]
        images, _ = model.transform([frame])
        features = model.backbone(images.tensors)
        if right:
            height, width = images.image_sizes[0]
            boxes = [boxes[0] * torch.tensor([width / frame_hw[1], height / frame_hw[0]]).repeat(2)]
        return model.roi_heads.box_roi_pool(features, boxes, images.image_sizes)

    return Program(model, run, model.roi_heads.box_roi_pool)


@fault(
    "vision#1001",
    "a detector's results are pooled again from its features, which belong to the resized image",
    "RA107",
    right="boxes times the detector's own resize",
)
def detections_pooled_again() -> Program:
    return _second_look(fasterrcnn_mobilenet_v3_large_320_fpn, (900, 1200))


@fault(
    "vision#1001 enlarged",
    "the same in the reported sizes, 480 x 640 enlarged to 800 x 1066: all boxes are inside",
    "RA107",
    right="boxes times the detector's own resize: the very tensor was seen to leave it",
)
def detections_pooled_again_enlarged() -> Program:
    return _second_look(fasterrcnn_mobilenet_v3_large_fpn, (480, 640))


@fault(
    "SAFECount#27",
    "y first, and in pixels of the photograph, which was squeezed to a square",
    "RA107",
    "RA203",
    right="both: columns [1, 0, 3, 2], and the two scales of the resize",
)
def exemplars() -> Program:
    model = resnet("layer1")

    def run(right: bool = False) -> Tensor:
        features = model(functional.interpolate(photo(1080, 1920), (512, 512)))
        boxes = [objects(1080, 1920, 3, least=0.03, most=0.1)[:, [1, 0, 3, 2]]]
        if right:
            boxes = [objects(512, 512, 3, least=0.03, most=0.1)]
        return roi_align(features, boxes, 7, spatial_scale=1 / 4, sampling_ratio=2)

    return Program(model, run)


@fault(
    "faster_rcnn_pytorch#39",
    "boxes are scaled to the map by hand, and again by spatial_scale",
    "RA102",
    right="spatial_scale=1",
)
def projected_twice() -> Program:
    layers = [size if size == "M" else int(size) // 4 for size in cfgs["D"]]  # VGG-16, but thin
    model = seeded(lambda: make_layers(layers)[:-1])

    def run(right: bool = False) -> Tensor:
        features = model(functional.interpolate(photo(375, 500), (600, 800)))
        boxes = [(objects(375, 500) * 1.6 / 16).round()]
        return roi_pool(features, boxes, 7, 1 if right else 1 / 16)

    return Program(model, run)


@fault(
    "Transformers-Tutorials#127",
    "a document's boxes on a scale of 0 to 1000 are pooled from a page of 224 x 224",
    "RA107",
    says="1000",
    right="boxes * 224 / 1000",
)
def thousandths() -> Program:
    model = resnet("layer4")

    def run(right: bool = False) -> Tensor:
        features = model(photo(224, 224))
        boxes = [objects(1000, 1000, 30, least=0.02, most=0.15).round()]
        if right:
            boxes = [boxes[0] * 0.224]
        return roi_align(features, boxes, 3, spatial_scale=1 / 32, aligned=True)

    return Program(model, run)


@fault("vrdu#4", "rows of a page's index and fractions of the page go in as pixels", "RA103", right="boxes * 224")
def fractions_of_a_page() -> Program:
    model = resnet("layer4")

    def run(right: bool = False) -> Tensor:
        features = model(photo(224, 224))
        fractions = objects(1, 1, 30, least=0.02, most=0.15) * (224 if right else 1)
        boxes = torch.cat([torch.zeros(30, 1), fractions], 1)
        return roi_align(features, boxes, 3, spatial_scale=1 / 32, aligned=True)

    return Program(model, run)


@fault(
    "Paddle#45392",
    "four images and two random boxes between 0 and 1, cut from the images themselves",
    "RA103",
    right="boxes * 512; and the boxes are for one of the four images",
)
def random_fractions() -> Program:
    model = nn.Identity()

    def run(right: bool = False) -> Tensor:
        features = model(photo(512, 512, 4))
        boxes = [torch.rand(2, 4, generator=torch.Generator().manual_seed(3)) * (512 if right else 1)]
        return roi_align(features, boxes, 80, aligned=True)

    return Program(model, run)


@fault(
    "mmdetection#1364",
    "proposals are scaled twice by the factor of the test image",
    "RA107",
    says=r"2\.4|twice",
    right="boxes / 2.4",
)
def scaled_twice() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        features = model(functional.interpolate(photo(333, 500), (800, 1201)))
        factor = 800 / 333
        boxes = [objects(333, 500) * (factor if right else factor * factor)]
        return roi_align(features, boxes, 7, spatial_scale=1 / 16, sampling_ratio=2)

    return Program(model, run)


@fault(
    "N.E.K.O#1821",
    "a page is reduced and then enlarged; its lines get the second ratio only",
    "RA107",
    says=r"0\.64|twice|both|1000|2200",
    right="boxes * 0.64 of the first page: both ratios",
)
def two_resizes() -> Program:
    model = resnet("layer2")
    paper, lines = page(2200, 1000, seed=8)

    def run(right: bool = False) -> Tensor:
        small = resized(paper, 1100, 500)
        features = model(resized(small, 1408, 640))
        boxes = [lines * (0.64 if right else 1.28)]
        return roi_align(features, boxes, (4, 48), 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "DeepForest#1193",
    "map coordinates in metres are taken for pixels",
    *("RA209", "RA107", "RA1", "RA205"),
    says="outside|beyond|far|any frame|map unit|metre|shift",
    right="the pixels: undo the map's affine transform; never drop all rows",
)
def map_coordinates() -> Program:
    model = resnet("layer3")
    left, top, metres = 404211.9, 3285102.9, 0.1

    def run(right: bool = False) -> Tensor:
        features = model(photo(400, 400))
        pixels = objects(400, 400, 20, least=0.03, most=0.1)
        x1, y1, x2, y2 = pixels.unbind(1)
        boxes = [torch.stack([left + x1 * metres, top - y2 * metres, left + x2 * metres, top - y1 * metres], 1)]
        if right:
            boxes = [pixels]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


def _window(picture: Picture) -> Program:
    model = resnet("layer2")
    image, drawn = picture

    def run(right: bool = False) -> Tensor:
        x, y = 352, 160
        features = model(image[..., y:, x:])
        centres = (drawn[:, :2] + drawn[:, 2:]) / 2
        boxes = [drawn[(centres[:, 0] > x) & (centres[:, 1] > y)]]
        if right:
            boxes = [boxes[0] - torch.tensor([x, y, x, y])]
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run)


@fault(
    "sldc#10",
    "a crop of the picture goes in, boxes are in pixels of the whole picture (coins)",
    *("RA107", "RA1"),
    says="352",
    right="boxes minus the window's corner (352, 160)",
)
def window_of_coins() -> Program:
    return _window(coins(480, 640))


@fault(
    "sldc#10 blood",
    "the same on a blood smear",
    *("RA107", "RA1"),
    says="352",
    right="boxes minus the window's corner (352, 160)",
)
def window_of_blood() -> Program:
    return _window(blood(124))


def _padded_square(boxes_of: Callable[[bool], Tensor]) -> Program:
    model = patches(16, 16)

    def run(right: bool = False) -> Tensor:
        features = model(functional.pad(photo(540, 960), (0, 0, 0, 420), value=0.5))
        boxes = [boxes_of(right)]
        return roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)

    return Program(model, run)


@fault(
    "transformers#27205",
    "a photograph was padded to a square; boxes are scaled as if it had been squeezed",
    *("RA1", "RA2(?!04)"),
    says="pad|grey|bar|empty",
    right="boxes of the photograph / 2 on both axes: its picture fills rows 0 to 540 of 960",
)
def squeezed_not_padded() -> Program:
    def boxes_of(right: bool) -> Tensor:
        boxes = objects(1080, 1920)
        return boxes / 2 if right else boxes / torch.tensor([1920.0, 1080, 1920, 1080]) * 960

    return _padded_square(boxes_of)


@unseen(
    "transformers#27205 to the photograph",
    "boxes of the padded square are multiplied by the photograph's sides, and brought back by one of them",
    "fractions * 960 on both axes",
)
def padded_not_squeezed() -> Program:
    def boxes_of(right: bool) -> Tensor:
        fractions = objects(540, 960) / 960
        return fractions * (960 if right else torch.tensor([960.0, 540, 960, 540]))

    return _padded_square(boxes_of)


@fault(
    "maskrcnn-benchmark#501",
    "fractions of each photograph are multiplied by the size of the padded batch's map",
    *("RA1", "RA2(?!04)"),
    says="pad",
    right="fractions times each photograph's own cells; the weights are fine",
)
def fractions_of_the_batch() -> Program:
    model = resnet("layer3")

    def run(right: bool = False) -> Tensor:
        sizes = [(240, 320), (416, 256), (96, 128)]
        features = model(padded_batch(sizes))
        rows, columns = features.shape[-2:]
        boxes = [objects(1, 1, 9) * torch.tensor([columns, rows, columns, rows]) for _ in sizes]
        if right:
            boxes = [objects(height / 16, width / 16, 9) for height, width in sizes]
        return roi_align(features, boxes, 7)

    return Program(model, run)
