"""detectron2's ROIPooler and mmdetection's SingleRoIExtractor on roialign, against loops that say what the two do.

Neither library can be installed from PyPI with its operators: these stand-ins follow their interfaces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import roi_align

from roialign.errors import OptionError
from roialign.integrations.detectron2 import ROIPooler
from roialign.integrations.mmdet import SingleRoIExtractor

STRIDES = (4, 8, 16, 32)


@dataclass
class Boxes:
    """As detectron2.structures.Boxes."""

    tensor: Tensor


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 1024 // stride, 1024 // stride, generator=generator) for stride in STRIDES]


def boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = 2 ** (3 + 7 * torch.rand(count, 1, generator=generator)) * torch.tensor([1.0, 0.8])
    corners = torch.rand(count, 2, generator=generator) * (1024 - sizes)
    return torch.cat([corners, corners + sizes], 1)


def one_by_one(rois: Tensor, levels: Sequence[int], output_size: int, ratio: int, aligned: bool) -> Tensor:
    """Each box alone, from its level."""
    found = [
        roi_align(maps()[level], roi[None], output_size, 1 / STRIDES[level], ratio, aligned)
        for roi, level in zip(rois, levels, strict=True)
    ]
    return torch.cat(found)


def rois_of(lists: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.cat([torch.full((len(some), 1), float(i)), some], 1) for i, some in enumerate(lists)])


def size(box: Tensor) -> float:
    x1, y1, x2, y2 = box.tolist()
    return math.sqrt((x2 - x1) * (y2 - y1))


@pytest.mark.parametrize(("kind", "aligned"), [("ROIAlignV2", True), ("ROIAlign", False)])
@pytest.mark.parametrize("ratio", [0, 2])
def test_detectron2s_pooler(kind: str, aligned: bool, ratio: int) -> None:
    lists = [boxes(20, 1), boxes(30, 2)]
    pooler = ROIPooler((7, 7), [1 / stride for stride in STRIDES], ratio, kind)
    rois = rois_of(lists)
    levels = [min(max(math.floor(4 + math.log2(size(roi[1:]) / 224 + 1e-8)), 2), 5) - 2 for roi in rois]
    assert len(set(levels)) == 4
    found = pooler(maps(), [Boxes(some) for some in lists])
    assert_close(found, one_by_one(rois, levels, 7, ratio, aligned))


def test_detectron2s_pooler_without_boxes() -> None:
    pooler = ROIPooler(7, [1 / stride for stride in STRIDES], 0, "ROIAlignV2")
    assert pooler(maps(), [Boxes(torch.empty(0, 4))] * 2).shape == (0, 5, 7, 7)


@pytest.mark.parametrize("kind", ["ROIPool", "ROIAlignRotated", "roialign"])
def test_detectron2s_other_types(kind: str) -> None:
    with pytest.raises(OptionError, match=rf'RA506: expected pooler_type "ROIAlignV2" or "ROIAlign"; got {kind!r}'):
        ROIPooler(7, [0.25], 0, kind)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("factor", [None, 1.5])
def test_mmdetections_extractor(aligned: bool, factor: float | None) -> None:
    rois = rois_of([boxes(25, 3), boxes(25, 4)])
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0, "aligned": aligned}
    extractor = SingleRoIExtractor(layer, 5, list(STRIDES))
    levels = [min(max(math.floor(math.log2(size(roi[1:]) / 56 + 1e-6)), 0), 3) for roi in rois]
    assert len(set(levels)) == 4
    assert extractor.num_inputs == 4
    assert extractor.map_roi_levels(rois, 4).tolist() == levels
    found = extractor(tuple(maps()), rois, factor)
    if factor is not None:
        x1, y1, x2, y2 = rois[:, 1:].unbind(1)
        centres, sides = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) * factor, (y2 - y1) * factor)
        starts = [centre - side / 2 for centre, side in zip(centres, sides, strict=True)]
        ends = [centre + side / 2 for centre, side in zip(centres, sides, strict=True)]
        rois = torch.stack([rois[:, 0], *starts, *ends], 1)
    assert_close(found, one_by_one(rois, levels, 7, 0, aligned))


def test_mmdetections_extractor_of_one_map_and_of_no_boxes() -> None:
    extractor = SingleRoIExtractor({"type": "RoIAlign", "output_size": 3}, 5, [16])
    rois = rois_of([boxes(5, 5), boxes(5, 6)])
    assert_close(extractor([maps()[2]], rois), roi_align(maps()[2], rois, 3, 1 / 16, 0, True))
    assert extractor([maps()[2], maps()[3]], torch.empty(0, 5)).shape == (0, 5, 3, 3)


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "RoIPool", "output_size": 7},
        {"type": "RoIAlign", "output_size": 7, "pool_mode": "max"},
        {"type": "RoIAlign", "output_size": 7, "clockwise": True},
    ],
)
def test_mmdetections_other_layers(layer: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r'RA506: expected roi_layer=dict\(type="RoIAlign".*Keep mmdetection'):
        SingleRoIExtractor(layer, 5, [16])
