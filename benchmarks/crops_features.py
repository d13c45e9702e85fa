"""Features of boxes, pooled from maps of the whole image or averaged over maps of a crop: one vector for each box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

import roialign
from roialign import Boxes, FeatureGrid, Frame

from .crops_data import Scene

STRIDES = {"8": 8, "16": 16, "32": 32, "head": 32}
JOINED = "8, 16, 32"
BATCH = 8  # crops: the fastest of 1, 2, 4, ..., 32 with one thread
KEPT, MASKED = "3 x 3 bins kept", "masked"
_BINS, _KEPT_BINS, _MASK_SAMPLES = 7, 3, 16
Features = dict[str, Tensor]  # [K, C] by level
_Pool = Callable[[Tensor, FeatureGrid, Scene, Frame], Tensor]


class Levels(nn.Module):
    """The maps of strides 8, 16 and 32 of timm's EfficientNet, and what its last convolution makes of the last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, maps = self.model.bn1(self.model.conv_stem(images)), {}
        for index, stage in enumerate(self.model.blocks):
            features = stage(features)
            if (level := {2: "8", 4: "16", 6: "32"}.get(index)) is not None:
                maps[level] = features
        return {**maps, "head": self.model.bn2(self.model.conv_head(features))}


@dataclass
class Eye:
    """A backbone with the grids of its maps, traced once for each size of image."""

    backbone: nn.Module
    _grids: dict[tuple[int, int], Mapping[str, FeatureGrid]] = field(default_factory=dict)

    def grids(self, size_hw: tuple[int, int]) -> Mapping[str, FeatureGrid]:
        if size_hw not in self._grids:
            traced = roialign.trace(self.backbone, size_hw, measured=False)
            self._grids[size_hw] = {name: traced[name] for name in STRIDES}
        return self._grids[size_hw]

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            maps: dict[str, Tensor] = self.backbone(images)
        return maps


def normalized(image: Tensor) -> Tensor:
    """uint8 to [-1, 1], as the network was trained."""
    return image.float() / 127.5 - 1


def joined(features: Features) -> Features:
    """And the levels of different strides side by side, each of length 1 first."""
    parts = [normalize(features[level], dim=1) for level in JOINED.split(", ")]
    return {**features, JOINED: torch.cat(parts, 1)}


def _mean(features: Tensor) -> Tensor:
    return features.mean((2, 3))


def _pooled(bins: int) -> Callable[[Tensor, FeatureGrid, Scene, Frame], Tensor]:
    def pool(features: Tensor, grid: FeatureGrid, scene: Scene, entered: Frame) -> Tensor:
        boxes = Boxes(scene.boxes_xyxy, entered.root)
        return roialign.pool_regions(features, boxes, bins, grid, frames=entered)

    return pool


def _structural(features: Tensor, grid: FeatureGrid, scene: Scene, entered: Frame) -> Tensor:
    return _mean(_pooled(_BINS)(features, grid.with_offset("structural"), scene, entered))


def _not_aligned(features: Tensor, grid: FeatureGrid, scene: Scene, entered: Frame) -> Tensor:
    boxes = Boxes(scene.boxes_xyxy, entered.root).to(entered).boxes_xyxy
    return _mean(roialign.roi_align(features, [boxes], _BINS, spatial_scale=1 / grid.stride_yx[0], aligned=False))


def _masked(features: Tensor, grid: FeatureGrid, scene: Scene, entered: Frame) -> Tensor:
    if scene.masks is None:
        raise ValueError("expected a scene with masks; got one without")
    boxes = Boxes(scene.boxes_xyxy, entered.root).to(entered).boxes_xyxy
    scale = 1 / grid.stride_yx[0]
    return roialign.masked_roi_align(
        features, [boxes], scene.masks, 1, scale, sampling_ratio=_MASK_SAMPLES, masks_in="box"
    ).flatten(1)


POOLS: dict[str, _Pool] = {
    "": lambda *all_: _mean(_pooled(_BINS)(*all_)),
    "one bin": lambda *all_: _pooled(1)(*all_).flatten(1),
    KEPT: lambda *all_: _pooled(_KEPT_BINS)(*all_).flatten(1),
    "structural offset": _structural,
    "aligned=False": _not_aligned,
    MASKED: _masked,
}


@dataclass(frozen=True)
class RoIAlign:
    """Pooled from maps of the image, enlarged by `scale`."""

    pool: str = ""
    scale: int = 1

    @property
    def name(self) -> str:
        parts = ["RoIAlign", self.pool, "" if self.scale == 1 else f"image {self.scale}x"]
        return ", ".join(part for part in parts if part)

    def entered(self, scene: Scene) -> tuple[Tensor, Frame]:
        """The image as it enters the backbone, and its frame."""
        size_hw = (scene.image.shape[1], scene.image.shape[2])
        photo, image = Frame.image(size_hw), normalized(scene.image)[None]
        if self.scale == 1:
            return image, photo
        large_hw = (self.scale * size_hw[0], self.scale * size_hw[1])
        return interpolate(image, size=large_hw, mode="bilinear", align_corners=False), photo.resize(large_hw)

    def features(self, eye: Eye, scene: Scene) -> Features:
        image, entered = self.entered(scene)
        return self.of_maps(eye, eye.maps(image), scene, entered)

    def of_maps(self, eye: Eye, maps: Mapping[str, Tensor], scene: Scene, entered: Frame) -> Features:
        """Of maps that are there already."""
        grids = eye.grids(entered.size_hw)
        levels = [level for level in maps if not (level == "head" and self.pool == KEPT)]  # 11520 channels are too many
        return joined({level: POOLS[self.pool](maps[level], grids[level], scene, entered) for level in levels})


@dataclass(frozen=True)
class Crop:
    """Averaged over maps of the box, its sides times `context`, resized to a square."""

    side_px: int
    context: float = 1.0

    @property
    def name(self) -> str:
        extent = "tight" if self.context == 1 else f"{self.context:g} x the box"
        return f"Crop, {extent}, {self.side_px} px"

    def features(self, eye: Eye, scene: Scene) -> Features:
        image = normalized(scene.image)
        crops = torch.cat([crop(image, box, self.side_px, self.context) for box in scene.boxes_xyxy.tolist()])
        parts = [eye.maps(some) for some in crops.split(BATCH)]
        return joined({level: torch.cat([_mean(part[level]) for part in parts]) for level in parts[0]})


Method = RoIAlign | Crop


def crop(image: Tensor, box_xyxy: list[float], side_px: int, context: float = 1.0) -> Tensor:
    """[1, C, side_px, side_px] of `image` [C, H, W]: the box about its centre, made larger by `context`.

    It grows to whole pixels and is resized to a square, bilinear and antialiased; what is off the image is 0.
    """
    x1, y1, x2, y2 = box_xyxy
    more_x, more_y = (context - 1) * (x2 - x1) / 2, (context - 1) * (y2 - y1) / 2
    left, top = math.floor(x1 - more_x), math.floor(y1 - more_y)
    right, bottom = math.ceil(x2 + more_x), math.ceil(y2 + more_y)
    height, width = image.shape[1:]
    inside = image[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    missing = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    return interpolate(pad(inside, missing)[None], size=(side_px, side_px), mode="bilinear", antialias=True)


def methods(scales: tuple[int, ...], has_masks: bool) -> list[Method]:
    """All that is compared."""
    variants = [name for name in POOLS if name and name != MASKED]
    masked = [RoIAlign(MASKED, scale) for scale in scales] if has_masks else []
    crops = [Crop(224), Crop(224, 1.5), Crop(112), Crop(112, 1.5)]
    return [*(RoIAlign("", scale) for scale in scales), *(RoIAlign(name) for name in variants), *masked, *crops]


def features_of(eye: Eye, chosen: list[Method], scene: Scene) -> Iterator[tuple[Method, Features]]:
    """Those of each method; one pass of the backbone serves all that pool from maps of one size."""
    pooling = [one for one in chosen if isinstance(one, RoIAlign)]
    for scale in dict.fromkeys(one.scale for one in pooling):
        image, entered = RoIAlign(scale=scale).entered(scene)
        maps = eye.maps(image)
        yield from ((one, one.of_maps(eye, maps, scene, entered)) for one in pooling if one.scale == scale)
    yield from ((one, one.features(eye, scene)) for one in chosen if isinstance(one, Crop))
