"""A call of every public function, at any sizes: what compilers, fake tensors and exporters are tried on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import roialign
from roialign import FeatureGrid

Call = tuple[Callable[..., Tensor], tuple[Any, ...]]
_IMAGES = 2
_POOLER = roialign.MultiScaleRoIAlign(["fine", "coarse"], 3, 2)


def _features(height: int, width: int, channels: int = 4) -> Tensor:
    return torch.rand(_IMAGES, channels, height, width)


def _rois(count: int) -> Tensor:
    corners, sides = torch.rand(count, 2) * 8, torch.rand(count, 2) * 8 + 1
    return torch.cat([torch.randint(0, _IMAGES, (count, 1)).float(), corners, corners + sides], 1)


def _boxes(count: int) -> list[Tensor]:
    return [_rois(one)[:, 1:].clone() for one in (count, count + 1)]


def _rows_of_volumes(count: int) -> Tensor:
    rois = _rois(count)
    return torch.cat([rois[:, :3], rois[:, 1:2], rois[:, 3:], rois[:, 3:4]], 1)


def _pyramid(height: int, width: int) -> dict[str, Tensor]:
    return {"fine": _features(2 * height, 2 * width), "coarse": _features(height, width)}


def _regions(maps: dict[str, Tensor], boxes: Any) -> Tensor:
    strides = {"fine": (4.0, 4.0), "coarse": (8.0, 8.0)}
    grids = {name: FeatureGrid((one.shape[2], one.shape[3]), strides[name]) for name, one in maps.items()}
    return roialign.pool_regions(maps, boxes, 3, grids)


def _largest(features: Tensor, rois: Tensor) -> Tensor:
    return roialign.roi_align(features, rois, 3, mode="max")


def _pasted(masks: Tensor, boxes_xyxy: Tensor, image: Tensor) -> Tensor:
    return roialign.paste_masks(masks, boxes_xyxy, (image.shape[1], image.shape[2]), None)


CALLS: dict[str, Callable[[int, int, int], Call]] = {
    "roi_align": lambda h, w, k: (roialign.roi_align, (_features(h, w), _rois(k), 3)),
    "roi_align of lists": lambda h, w, k: (roialign.roi_align, (_features(h, w), _boxes(k), 3)),
    "roi_align, max": lambda h, w, k: (_largest, (_features(h, w), _rois(k))),
    "roi_pool": lambda h, w, k: (roialign.roi_pool, (_features(h, w), _rois(k), 3)),
    "ps_roi_align": lambda h, w, k: (roialign.ps_roi_align, (_features(h, w, 18), _rois(k), 3)),
    "ps_roi_pool": lambda h, w, k: (roialign.ps_roi_pool, (_features(h, w, 18), _rois(k), 3)),
    "prroi_pool": lambda h, w, k: (roialign.prroi_pool, (_features(h, w), _rois(k), 3)),
    "roi_align_rotated": lambda h, w, k: (
        roialign.roi_align_rotated,
        (_features(h, w), torch.cat([_rois(k), torch.rand(k, 1)], 1), 3),
    ),
    "roi_align_1d": lambda h, w, k: (roialign.roi_align_1d, (torch.rand(2, 4, w), _rois(k)[:, [0, 1, 3]], 3)),
    "roi_align_3d": lambda h, w, k: (roialign.roi_align_3d, (torch.rand(2, 4, h, w, w + 3), _rows_of_volumes(k), 3)),
    "masked_roi_align": lambda h, w, k: (
        roialign.masked_roi_align,
        (_features(h, w), _rois(k), torch.rand(k, h + 5, w + 1), 3),
    ),
    "masked_roi_align of lists": lambda h, w, k: (
        roialign.masked_roi_align,
        (_features(h, w), _boxes(k), [torch.rand(count, h, w) > 0.5 for count in (k, k + 1)], 3),
    ),
    "crop_and_resize": lambda h, w, k: (
        roialign.crop_and_resize,
        (_features(h, w), torch.rand(k, 4), torch.zeros(k, dtype=torch.int32), 4),
    ),
    "paste_masks": lambda h, w, k: (roialign.paste_masks, (torch.rand(k, 14, 14), _rois(k)[:, 1:], (h, w))),
    "paste_masks, values": lambda h, w, k: (_pasted, (torch.rand(k, 14, 14), _rois(k)[:, 1:], torch.rand(3, h, w))),
    "MultiScaleRoIAlign": lambda h, w, k: (
        _POOLER,
        (_pyramid(h, w), _boxes(k), [(8 * h, 8 * w - 5), (8 * h - 3, 8 * w)]),
    ),
    "pool_regions": lambda h, w, k: (_regions, (_pyramid(h, w), _boxes(k))),
}
"""By name, from (height, width, boxes): a public function and arguments for it."""
