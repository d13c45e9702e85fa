"""roi_pool, ps_roi_align, ps_roi_pool and paste_masks, which torchvision has on the CPU too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

import roialign
from benchmarks.implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION
from benchmarks.workloads import LAYOUTS, SAMPLING_RATIOS, WORKLOADS, Level, Setting, Workload

from .comparison import TRAINING, Comparison, Pool, require_alike

_W1 = WORKLOADS[0]
_FINE_AND_COARSE = (_W1, replace(_W1, name="W1 at stride 16", strides=(16,), side_px=(12, 250)))
_BINS, _CLASSES = 49, 8  # of operators that read a plane for each bin: planes for one channel of the output, and those
_IMAGE_SIZE_HW, _MASKS = (800, 1344), 50


def roi_pool(quick: bool) -> Iterator[Comparison]:
    for workload, layout in product(_workloads(_W1.channels, quick), LAYOUTS):
        yield _compare("roi_pool", Setting(workload, 0, layout=layout), "", (FORWARD, TRAINING, BACKWARD))


def ps_roi_align(quick: bool) -> Iterator[Comparison]:
    for workload, ratio, layout in product(_workloads(_CLASSES * _BINS, quick), SAMPLING_RATIOS, LAYOUTS):
        setting = Setting(workload, ratio, layout=layout)
        yield _compare("ps_roi_align", setting, setting.options, (FORWARD, BACKWARD))


def ps_roi_pool(quick: bool) -> Iterator[Comparison]:
    """With torchvision's gradient, for another one is roialign's without being asked."""
    for workload, layout in product(_workloads(_CLASSES * _BINS, quick), LAYOUTS):
        yield _compare("ps_roi_pool", Setting(workload, 0, layout=layout), "", (FORWARD, BACKWARD))


def _workloads(channels: int, quick: bool) -> list[Workload]:
    """Maps as fine and as coarse as detectors have them."""
    found = [replace(workload, channels=channels) for workload in _FINE_AND_COARSE]
    return [replace(workload, boxes=50, channels=_BINS) for workload in found] if quick else found


def _compare(operator: str, setting: Setting, options: str, passes: tuple[str, ...]) -> Comparison:
    (level,) = setting.levels()
    workload = setting.workload
    pools = {
        ROIALIGN: _pool(getattr(roialign, operator), operator, level, setting),
        TORCHVISION: _pool(getattr(torchvision.ops, operator), operator, level, setting),
    }
    return Comparison(
        workload.name, workload.description, options, setting.layout, level.features, pools, (TORCHVISION,), passes
    )


def _pool(function: Callable[..., Tensor], operator: str, level: Level, setting: Setting) -> Pool:
    options = (setting.sampling_ratio,) if operator == "ps_roi_align" else ()
    legacy = operator == "ps_roi_pool" and function is roialign.ps_roi_pool
    compat = {"compat": "torchvision"} if legacy else {}
    size, scale = setting.workload.output_size, level.spatial_scale
    return lambda features: function(features, level.rois, size, scale, *options, **compat)


def paste_masks(quick: bool) -> Iterator[Comparison]:
    """bool masks of the image, which torchvision's users make of its values."""
    generator = torch.Generator().manual_seed(0)
    count = 5 if quick else _MASKS
    sides = torch.rand(count, 2, generator=generator) * 400 + 20
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor(_IMAGE_SIZE_HW[::-1]) - sides)
    boxes, masks = torch.cat([corners, corners + sides], 1), torch.rand(count, 28, 28, generator=generator)
    values = roialign.paste_masks(masks, boxes, _IMAGE_SIZE_HW, None, compat="torchvision")
    theirs = paste_masks_in_image(masks[:, None], boxes, _IMAGE_SIZE_HW)[:, 0]
    require_alike("paste_masks", TORCHVISION, values, theirs)
    del values, theirs
    height, width = _IMAGE_SIZE_HW
    description = f"{count} masks of 28x28 in boxes of 20 to 420 px, image {height}x{width}"
    for compat in ("torchvision", "detectron2"):
        pools: dict[str, Pool] = {
            ROIALIGN: lambda masks, compat=compat: roialign.paste_masks(masks, boxes, _IMAGE_SIZE_HW, compat=compat),
            TORCHVISION: lambda masks: paste_masks_in_image(masks[:, None], boxes, _IMAGE_SIZE_HW) >= 0.5,
        }
        yield Comparison("masks", description, f'compat="{compat}"', "", masks, pools, (), (FORWARD,))
