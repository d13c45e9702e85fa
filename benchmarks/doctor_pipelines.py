"""Healthy programs that pool regions, as users write them, each open at the one point where users make mistakes.

A pipeline goes from a photograph and boxes around things in it to an `Intake`: all that its RoI operator is about to
be given. A fault changes the intake; `Pipeline.pool` gives it to the operator.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.models import detection
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import poolers

import roialign

BOX_COUNTS = (1, 2, 3, 5, 8, 20, 60)
PROPOSAL_COUNTS = (20, 60, 120)
_LEAST_SIDE_PX = 12


@dataclass(frozen=True)
class Scene:
    """A photograph [3, H, W] in [0, 1] and boxes [K, 4], xyxy in its pixels."""

    photograph: Tensor
    boxes_xyxy: Tensor

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.photograph.shape[1], self.photograph.shape[2]


@dataclass(frozen=True)
class Intake:
    """What an RoI operator is about to be given, and what the program knows of it."""

    features: Any
    """The map [1, C, H, W], or a dict of maps for a pyramid."""
    boxes: Any
    """A list with one tensor [K, 4], xyxy, in `frame_hw`; or what a fault makes of it."""
    spatial_scale: float
    stride: float
    frame_hw: tuple[int, int]
    """Size of the image that the boxes should be in."""
    scene: Scene
    photo_to_frame: tuple[float, float, float]
    """Boxes of the photograph times the first, plus the others (x, y), are boxes of the frame."""
    output_size: Any = 7
    sampling_ratio: int = -1
    aligned: bool = False
    library: str = "torchvision"
    image_shapes: tuple[tuple[int, int], ...] = ()
    """For MultiScaleRoIAlign: the sizes of the images before they were padded."""
    spoilt: Tensor | None = None
    """Rows of the boxes that cannot be put right, bool [K], where a fault spoilt some."""
    calibrated_offset_yx: tuple[float, float] | None = None
    """The measured offset of the map's cells, which `roialign.diagnose` can be given with the map's grid."""
    left_out: str = ""
    """A map that MultiScaleRoIAlign is not told to pool from."""
    cached_factor: int = 1
    """How many times larger the image of the first batch was, of which MultiScaleRoIAlign keeps the scales."""
    healthy: Callable[[], Tensor] | None = None
    """What the program should have computed, where that is not what the operator makes of the unchanged intake."""
    rows: bool = False
    """Whether the boxes are handed over as [K, 5], the index of the image first."""
    tokens: Tensor | None = None
    """All tokens [N, count, C] of a transformer, of some of which the map is made."""
    wrong: Mapping[str, Callable[[], Intake]] = field(default_factory=dict)
    """By its name a mistake that is made earlier in this program, and what it leads to."""

    @property
    def xyxy(self) -> Tensor:
        """The boxes while they are healthy, [K, 4]."""
        boxes: Tensor = self.boxes[0]
        return boxes

    @property
    def handed(self) -> Any:
        """The boxes as the operator is given them."""
        healthy = isinstance(self.boxes, list) and all(isinstance(some, Tensor) for some in self.boxes)
        return as_rows(self.boxes) if self.rows and healthy else self.boxes

    @property
    def grid(self) -> roialign.FeatureGrid | None:
        """The map's grid, where its offset was measured."""
        if self.calibrated_offset_yx is None:
            return None
        size_hw = (int(self.features.shape[2]), int(self.features.shape[3]))
        strides = (self.stride, self.stride)
        return roialign.FeatureGrid(size_hw, strides, calibrated_offset_yx=self.calibrated_offset_yx)

    @property
    def pyramid(self) -> bool:
        return isinstance(self.features, dict)


@dataclass(frozen=True)
class Pipeline:
    """A healthy program in two halves, between which faults are made."""

    name: str
    model: nn.Module
    """What `roialign.watch` is given."""
    look: Callable[[Scene, random.Random], Intake]
    """Runs the backbone."""
    pool: Callable[[Intake], Tensor]
    """Runs the operator, [K, C, h, w]."""
    kind: str
    """"map", "pyramid", "extractor", "other operator" or a kind of its own: which faults it can have."""
    counts: Sequence[int] = BOX_COUNTS
    whole: Callable[[Scene], object] | None = None
    """Runs all of the model, for false alarms."""
    pooler: Any = None
    """The MultiScaleRoIAlign of a pyramid."""


def boxes_of(size_hw: tuple[int, int], count: int, rng: random.Random) -> Tensor:
    """Boxes as people draw them: anywhere, of all sizes, inside the image, half of the time in whole pixels."""
    height, width = size_hw
    found: list[list[float]] = []
    while len(found) < count:
        side = min(height, width) / 6 * rng.lognormvariate(0, 0.7)
        aspect = rng.lognormvariate(0, 0.35)
        x, y, w, h = rng.uniform(0, width), rng.uniform(0, height), side * aspect, side / aspect
        corners = [max(x - w / 2, 0.0), max(y - h / 2, 0.0), min(x + w / 2, width), min(y + h / 2, height)]
        if min(corners[2] - corners[0], corners[3] - corners[1]) >= _LEAST_SIDE_PX:
            found.append(corners)
    boxes = torch.tensor(found)
    return boxes.round() if rng.random() < 0.5 else boxes


def moved(boxes_xyxy: Tensor, photo_to_frame: tuple[float, float, float]) -> Tensor:
    """Boxes of the photograph in the frame that entered the backbone."""
    scale, x, y = photo_to_frame
    return boxes_xyxy * scale + boxes_xyxy.new_tensor([x, y, x, y])


def as_rows(boxes: Sequence[Tensor]) -> Tensor:
    """[K, 5], the index of the image first."""
    return torch.cat([pad(some, (1, 0), value=float(index)) for index, some in enumerate(boxes)])


def pool_map(intake: Intake) -> Tensor:
    """By the library's `roi_align`."""
    operator = roialign.roi_align if intake.library == "roialign" else torchvision.ops.roi_align
    pooled: Tensor = operator(
        intake.features, intake.handed, intake.output_size, intake.spatial_scale, intake.sampling_ratio, intake.aligned
    )
    return pooled


def pipelines() -> list[Pipeline]:
    """All of them, with random weights of a fixed seed."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            *_detectors(),
            _c4(),
            _vit("ViT, patch 16", "vit_tiny_patch16_224", 16, "roialign"),
            _vit("ViT, patch 14", "vit_small_patch14_dinov2", 14, "torchvision", depth=4),
            _swin(),
            _extractor(),
            *_by_hand(),
            _text(),
            _roi_pool(),
            _ps_roi_align(),
        ]


def resized(scene: Scene, size_hw: tuple[int, int]) -> Tensor:
    return interpolate(scene.photograph[None], size_hw, mode="bilinear", antialias=True, align_corners=False) - 0.5


def fit_short(scene: Scene, short: int, multiple: int) -> tuple[Tensor, tuple[float, float, float]]:
    """The shorter side resized to `short`, then padded at the far edges to a multiple."""
    scale = short / min(scene.size_hw)
    height, width = (round(side * scale) for side in scene.size_hw)
    image = resized(scene, (height, width))
    return pad(image, (0, -width % multiple, 0, -height % multiple)), (scale, 0.0, 0.0)


def letterbox(scene: Scene, size_hw: tuple[int, int]) -> tuple[Tensor, tuple[float, float, float]]:
    """Resized to fit, in the middle."""
    scale = min(target / side for target, side in zip(size_hw, scene.size_hw, strict=True))
    height, width = (round(side * scale) for side in scene.size_hw)
    top, left = (size_hw[0] - height) // 2, (size_hw[1] - width) // 2
    image = pad(resized(scene, (height, width)), (left, size_hw[1] - width - left, top, size_hw[0] - height - top))
    return image, (scale, float(left), float(top))


def map_intake(
    scene: Scene,
    image: Tensor,
    features: Tensor,
    stride: float,
    to_frame: tuple[float, float, float],
    **options: Any,
) -> Intake:
    frame_hw = (int(image.shape[2]), int(image.shape[3]))
    boxes = [moved(scene.boxes_xyxy, to_frame)]
    return Intake(features, boxes, 1 / stride, stride, frame_hw, scene, to_frame, **options)


def _detectors() -> list[Pipeline]:
    sizes: dict[str, Any] = {"weights": None, "weights_backbone": None, "rpn_post_nms_top_n_test": 100}
    built = {
        "Faster R-CNN, ResNet-50": detection.fasterrcnn_resnet50_fpn(min_size=256, max_size=448, **sizes),
        "Mask R-CNN, ResNet-50": detection.maskrcnn_resnet50_fpn(min_size=256, max_size=448, **sizes),
        "Faster R-CNN, MobileNet": detection.fasterrcnn_mobilenet_v3_large_320_fpn(**sizes),
    }
    return [_detector(name, model.eval()) for name, model in built.items()]


def _detector(name: str, model: Any) -> Pipeline:
    masks = name.startswith("Mask")
    pooler: Any = model.roi_heads.mask_roi_pool if masks else model.roi_heads.box_roi_pool
    names = list(pooler.featmap_names)

    def look(scene: Scene, rng: random.Random) -> Intake:
        batch, targets = model.transform([scene.photograph], [{"boxes": scene.boxes_xyxy}])
        frame_hw = batch.image_sizes[0]
        scale = frame_hw[1] / scene.size_hw[1]
        return Intake(
            dict(model.backbone(batch.tensors)),
            [targets[0]["boxes"]],
            1.0,
            1.0,
            frame_hw,
            scene,
            (scale, 0.0, 0.0),
            image_shapes=tuple(batch.image_sizes),
            output_size=14 if masks else 7,
        )

    def pool(intake: Intake) -> Tensor:
        pooler.scales = pooler.map_levels = None
        pooler.featmap_names = [name for name in names if name != intake.left_out]
        if intake.cached_factor > 1:
            maps = [map_ for name, map_ in intake.features.items() if name in pooler.featmap_names]
            first = [(intake.cached_factor * h, intake.cached_factor * w) for h, w in intake.image_shapes]
            canonical = (pooler.canonical_scale, pooler.canonical_level)
            pooler.scales, pooler.map_levels = poolers._setup_scales(maps, first, *canonical)
        pooled: Tensor = pooler(intake.features, intake.boxes, list(intake.image_shapes))
        return pooled

    def whole(scene: Scene) -> object:
        pooler.featmap_names = names
        return model([scene.photograph])

    return Pipeline(name, model, look, pool, "pyramid", PROPOSAL_COUNTS, whole, pooler)


def _c4() -> Pipeline:
    resnet = torchvision.models.resnet18(weights=None).eval()
    backbone = nn.Sequential(*list(resnet.children())[:7])  # to the end of layer3, stride 16
    aligned = torchvision.ops.RoIAlign(14, 1 / 16, 0, aligned=True)

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(240, 480), rng.choice([1, 32]))
        options: dict[str, Any] = {"output_size": 14, "sampling_ratio": 0, "aligned": True}
        return map_intake(scene, image, backbone(image), 16, to_frame, **options)

    def pool(intake: Intake) -> Tensor:
        if isinstance(intake.output_size, int):
            aligned.output_size, aligned.spatial_scale = intake.output_size, intake.spatial_scale
            aligned.sampling_ratio, aligned.aligned = intake.sampling_ratio, intake.aligned
            pooled: Tensor = aligned(intake.features, intake.handed)
            return pooled
        return pool_map(intake)

    return Pipeline("C4, ResNet-18", backbone, look, pool, "map")


def _vit(name: str, timm_name: str, patch: int, library: str, **options: Any) -> Pipeline:
    model = timm.create_model(timm_name, dynamic_img_size=True, num_classes=0, **options).eval()

    def look(scene: Scene, rng: random.Random) -> Intake:
        size_hw = (rng.randrange(16, 33) * patch, rng.randrange(16, 33) * patch)
        image, to_frame = letterbox(scene, size_hw)
        tokens = model.forward_features(image)[:, model.num_prefix_tokens :]
        features = tokens.transpose(1, 2).unflatten(2, (size_hw[0] // patch, size_hw[1] // patch))
        return map_intake(scene, image, features, patch, to_frame, library=library, aligned=library == "roialign")

    return Pipeline(name, model, look, pool_map, "map")


def _swin() -> Pipeline:
    stages: Any = torchvision.models.swin_t(weights=None).features[:6].eval()  # stride 16, channels last

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(160, 288), 32)
        return map_intake(scene, image, stages(image).permute(0, 3, 1, 2), 16, to_frame, sampling_ratio=2)

    return Pipeline("Swin-T", stages, look, pool_map, "map")


def _extractor() -> Pipeline:
    resnet = torchvision.models.resnet18(weights=None)
    backbone = create_feature_extractor(resnet, {"layer3": "16"}).eval()
    extractor = roialign.RegionExtractor(backbone, 7, fit=lambda photo: photo.letterbox((320, 416)))

    def look(scene: Scene, rng: random.Random) -> Intake:
        return Intake(None, [scene.boxes_xyxy], 1 / 16, 16, scene.size_hw, scene, (1.0, 0.0, 0.0), library="roialign")

    def pool(intake: Intake) -> Tensor:
        pooled: Tensor = extractor([intake.scene.photograph], intake.boxes).features
        return pooled

    return Pipeline("RegionExtractor", extractor, look, pool, "extractor")


def _by_hand() -> list[Pipeline]:
    resnet = torchvision.models.resnet18(weights=None).eval()
    trunks = {8: nn.Sequential(*list(resnet.children())[:6]), 32: nn.Sequential(*list(resnet.children())[:8])}
    mobile = torchvision.models.mobilenet_v3_small(weights=None).features[:9].eval()  # stride 16

    def freely(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(240, 520), 1)
        return map_intake(scene, image, mobile(image), 16, to_frame)

    def letterboxed(scene: Scene, rng: random.Random) -> Intake:
        side = 32 * rng.randrange(8, 17)
        image, to_frame = letterbox(scene, (side, side))
        return map_intake(scene, image, mobile(image), 16, to_frame, library="roialign", aligned=True)

    def fine(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(200, 400), 8)
        return map_intake(scene, image, trunks[8](image), 8, to_frame, library="roialign")

    def coarse(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = letterbox(scene, (32 * rng.randrange(10, 17), 32 * rng.randrange(10, 17)))
        return map_intake(scene, image, trunks[32](image), 32, to_frame, aligned=True, sampling_ratio=2)

    return [
        Pipeline("by hand, resized", mobile, freely, pool_map, "map"),
        Pipeline("by hand, letterboxed", mobile, letterboxed, pool_map, "map"),
        Pipeline("by hand, stride 8", trunks[8], fine, pool_map, "map"),
        Pipeline("by hand, stride 32", trunks[32], coarse, pool_map, "map"),
    ]


def _text() -> Pipeline:
    resnet = torchvision.models.resnet18(weights=None).eval()
    layer3: Any = resnet.layer3
    layer3[0].conv1.stride = layer3[0].downsample[0].stride = (2, 1)  # as recognisers of text have it
    backbone = nn.Sequential(*list(resnet.children())[:7])

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(240, 400), 16)
        intake = map_intake(scene, image, backbone(image), 16, to_frame, library="roialign", aligned=True)
        in_cells = intake.xyxy / torch.tensor([8.0, 16.0, 8.0, 16.0])
        return Intake(**{**vars(intake), "boxes": [in_cells], "spatial_scale": 1.0})

    return Pipeline("two strides", backbone, look, pool_map, "two strides")


def _roi_pool() -> Pipeline:
    backbone = torchvision.models.vgg11(weights=None).features[:-1].eval()  # as Fast R-CNN had it, stride 16

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(160, 256), 1)
        return map_intake(scene, image, backbone(image), 16, to_frame)

    def pool(intake: Intake) -> Tensor:
        pooled: Tensor = torchvision.ops.roi_pool(
            intake.features, intake.handed, intake.output_size, intake.spatial_scale
        )
        return pooled

    return Pipeline("roi_pool, VGG-11", backbone, look, pool, "other operator")


def _ps_roi_align() -> Pipeline:
    resnet = torchvision.models.resnet18(weights=None).eval()
    backbone = nn.Sequential(*list(resnet.children())[:7], nn.Conv2d(256, 8 * 49, 1)).eval()  # R-FCN's score maps

    def look(scene: Scene, rng: random.Random) -> Intake:
        image, to_frame = fit_short(scene, rng.randrange(240, 400), 16)
        return map_intake(scene, image, backbone(image), 16, to_frame)

    def pool(intake: Intake) -> Tensor:
        pooled: Tensor = torchvision.ops.ps_roi_align(
            intake.features, intake.handed, intake.output_size, intake.spatial_scale, intake.sampling_ratio
        )
        return pooled

    return Pipeline("ps_roi_align, R-FCN", backbone, look, pool, "other operator")
