"""The operators whose abilities are asked about, and torchvision's where it has one of the name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import roialign
from roialign import FeatureGrid
from tests.ops.differentiable import EVERY, Differentiable

SIZE_HW = (2, 3)
MASKS_HW = (6, 7)
STRIDE = 4
IMAGE_HW = (4 * STRIDE * 2, 5 * STRIDE * 2)
TORCHVISION = "torchvision's "


@dataclass(frozen=True)
class Subject:
    """One operator: as a function of features and boxes for derivatives, as a module for the rest."""

    name: str
    module: Callable[[], nn.Module]
    function: Differentiable
    boxes: Callable[[int], Tensor] = field(default=lambda count: upright(count))
    """So many boxes, float32, in the form that the module takes."""
    channels: int = 4
    axes: int = 2
    is_pyramid: bool = False
    has_masks: bool = False
    pastes: bool = False

    @property
    def is_ours(self) -> bool:
        return not self.name.startswith(TORCHVISION)

    def arguments(self, count: int = 3, size: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        """What the module takes, for so many boxes on maps of so many cells a side."""
        generator = torch.Generator().manual_seed(0)
        boxes = self.boxes(count)
        if self.pastes:
            return torch.rand(count, 3, 3, generator=generator).to(dtype), boxes
        sides = (size, size + 1, size + 2)[-self.axes :]
        features = torch.randn(2, self.channels, *sides, generator=generator).to(dtype)
        if self.is_pyramid:
            coarse = torch.randn(2, self.channels, size // 2, size // 2 + 1, generator=generator).to(dtype)
            image_hw = (sides[0] * STRIDE, sides[1] * STRIDE)
            return {"0": features, "1": coarse}, [boxes[:, 1:], boxes[:1, 1:]], [image_hw, image_hw]
        if self.has_masks:
            return features, boxes, torch.rand(count, size, size + 1, generator=generator) > 0.3
        return features, boxes


def upright(count: int) -> Tensor:
    return _rows(count, (0.5, 0.7, 5.3, 4.9), 5)


def _of_image(count: int) -> Tensor:
    return _rows(count, (2.5, 3.7, 21.3, 19.9), 5)


def _rotated(count: int) -> Tensor:
    return _rows(count, (3.5, 3.7, 4.3, 2.9, 30.0), 6)


def _segments(count: int) -> Tensor:
    return _rows(count, (0.5, 5.3), 3)


def _volumes(count: int) -> Tensor:
    return _rows(count, (0.5, 0.7, 0.4, 5.3, 4.9, 4.2), 7)


def _plain(count: int) -> Tensor:
    return upright(count)[:, 1:]


def _rows(count: int, first: tuple[float, ...], columns: int) -> Tensor:
    """The image index first; each following box is moved a little."""
    rows = torch.tensor([first]) + 0.13 * torch.arange(count)[:, None]
    return torch.cat([torch.arange(count)[:, None] % 2, rows], 1).float()


class _PasteMasks(nn.Module):
    def forward(self, masks: Tensor, boxes_xyxy: Tensor) -> Tensor:
        return roialign.paste_masks(masks, boxes_xyxy, (5, 6), threshold=None)


class _PoolRegions(nn.Module):
    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes_hw: list[tuple[int, int]]) -> Tensor:
        grids = {
            name: FeatureGrid((one.shape[2], one.shape[3]), (stride, stride))
            for (name, one), stride in zip(maps.items(), (float(STRIDE), 2.0 * STRIDE), strict=True)
        }
        return roialign.pool_regions(maps, boxes, output_size=SIZE_HW, grids=grids, sampling_ratio=2)


class OfImages(nn.Module):
    """A pooler of pyramids whose images have one size: what is left are tensors."""

    def __init__(self, pooler: nn.Module, image_sizes_hw: list[tuple[int, int]]) -> None:
        super().__init__()
        self.pooler, self.image_sizes_hw = pooler, image_sizes_hw

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        pooled: Tensor = self.pooler(maps, boxes, self.image_sizes_hw)
        return pooled


class _Extractor(nn.Module):
    """A RegionExtractor, whose features are pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        backbone = nn.Conv2d(4, 3, 3, stride=2, padding=1)
        self.extractor = roialign.RegionExtractor(backbone, SIZE_HW, sampling_ratio=2)

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return self.extractor(images, boxes).features


def _as_function(module: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """A pooler of pyramids as a function of its finest map and the boxes of image 0."""

    def pool(features: Tensor, boxes: Tensor) -> Tensor:
        maps = {"0": features, "1": features[..., ::2, ::2].detach()}
        image_hw = (features.shape[-2] * STRIDE, features.shape[-1] * STRIDE)
        of_next = torch.tensor([[2.4, 3.1, 18.2, 20.3]], dtype=boxes.dtype)
        pooled: Tensor = module(maps, [boxes[:, 1:], of_next], [image_hw, image_hw])
        return pooled

    return pool


_EXTRACTOR = _Extractor().double()


def _extract(images: Tensor, boxes: Tensor) -> Tensor:
    pooled: Tensor = _EXTRACTOR(images, boxes)
    return pooled


_KNOWN = {one.name: one for one in EVERY}
_PYRAMID = {"features_shape": (2, 2, 6, 8), "columns": ((0, 1.3, 2.7, 21.4, 18.9), (0, 5.2, 1.4, 26.1, 17.8))}


def _of_pyramid(name: str, module: Callable[..., Any]) -> Differentiable:
    return Differentiable(name, _as_function(module), **_PYRAMID)  # type: ignore[arg-type]


def _of_torchvision(name: str, pool: Callable[[Tensor, Tensor], Tensor], **more: Any) -> Differentiable:
    return Differentiable(TORCHVISION + name, pool, **more)


_ours_multi = roialign.MultiScaleRoIAlign(["0", "1"], SIZE_HW, 2)
_theirs_multi = torchvision.ops.MultiScaleRoIAlign(["0", "1"], SIZE_HW, 2)
tv = torchvision.ops
_OWN_PLANES = {"features_shape": (2, 12, 5, 6)}
_ROUNDED: dict[str, Any] = {**_OWN_PLANES, "moves_boxes": False}

SUBJECTS = (
    Subject("roi_align", lambda: roialign.RoIAlign(SIZE_HW, 1.0, 2, True), _KNOWN["roi_align"]),
    Subject(
        TORCHVISION + "roi_align",
        lambda: tv.RoIAlign(SIZE_HW, 1.0, 2, True),
        _of_torchvision("roi_align", lambda x, b: tv.roi_align(x, b, SIZE_HW, 1.0, 2, True)),
    ),
    Subject('roi_align, "max"', lambda: roialign.RoIAlign(SIZE_HW, 1.0, 2, mode="max"), _KNOWN["roi_align, max"]),
    Subject("MultiScaleRoIAlign", lambda: _ours_multi, _of_pyramid("multi", _ours_multi), _of_image, is_pyramid=True),
    Subject(
        TORCHVISION + "MultiScaleRoIAlign",
        lambda: _theirs_multi,
        _of_pyramid("multi", _theirs_multi),
        _of_image,
        is_pyramid=True,
    ),
    Subject(
        "pool_regions",
        _PoolRegions,
        _of_pyramid("regions", _PoolRegions()),
        _of_image,
        is_pyramid=True,
    ),
    Subject(
        "RegionExtractor",
        _Extractor,
        Differentiable("extractor", _extract, features_shape=(2, 4, 8, 10), columns=((0, 1.3, 2.7, 7.4, 6.9),)),
    ),
    Subject("roi_pool", lambda: roialign.RoIPool(SIZE_HW, 1.0), _KNOWN["roi_pool"]),
    Subject(
        TORCHVISION + "roi_pool",
        lambda: tv.RoIPool(SIZE_HW, 1.0),
        _of_torchvision("roi_pool", lambda x, b: tv.roi_pool(x, b, SIZE_HW, 0.9), moves_boxes=False),
    ),
    Subject("ps_roi_align", lambda: roialign.PSRoIAlign(SIZE_HW, 1.0, 2), _KNOWN["ps_roi_align"], channels=12),
    Subject(
        TORCHVISION + "ps_roi_align",
        lambda: tv.PSRoIAlign(SIZE_HW, 1.0, 2),
        _of_torchvision("ps_roi_align", lambda x, b: tv.ps_roi_align(x, b, SIZE_HW, 1.0, 2), **_OWN_PLANES),
        channels=12,
    ),
    Subject("ps_roi_pool", lambda: roialign.PSRoIPool(SIZE_HW, 1.0), _KNOWN["ps_roi_pool"], channels=12),
    Subject(
        TORCHVISION + "ps_roi_pool",
        lambda: tv.PSRoIPool(SIZE_HW, 1.0),
        _of_torchvision(
            "ps_roi_pool", lambda x, b: tv.ps_roi_pool(x, b, SIZE_HW, 1.0), moves_boxes=False, **_OWN_PLANES
        ),
        channels=12,
    ),
    Subject("prroi_pool", lambda: roialign.PrRoIPool(SIZE_HW, 1.0), _KNOWN["prroi_pool"]),
    Subject(
        "roi_align_rotated",
        lambda: roialign.RoIAlignRotated(SIZE_HW, 1.0, 2),
        _KNOWN["roi_align_rotated"],
        _rotated,
    ),
    Subject(
        "masked_roi_align",
        lambda: roialign.MaskedRoIAlign(SIZE_HW, 1.0, 2),
        _KNOWN["masked_roi_align"],
        has_masks=True,
    ),
    Subject("roi_align_1d", lambda: roialign.RoIAlign1d(3, 1.0, 2), _KNOWN["roi_align_1d"], _segments, axes=1),
    Subject("roi_align_3d", lambda: roialign.RoIAlign3d((2, 1, 2), 1.0, 1), _KNOWN["roi_align_3d"], _volumes, axes=3),
    Subject(
        "paste_masks",
        _PasteMasks,
        _KNOWN["paste_masks"],
        _plain,
        pastes=True,
    ),
)
