"""`diagnose` and `watch` of maps of any size beside their image's: as fine as it, finer, and of one cell."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import roialign

BOXES = [torch.tensor([[2.0, 3.0, 9.0, 11.0], [1.0, 1.0, 14.0, 6.0]])]

MAP_AND_IMAGE = [
    ((16, 16), (16, 16)),
    ((32, 32), (16, 16)),
    ((33, 33), (16, 16)),
    ((64, 64), (16, 16)),
    ((64, 40), (16, 16)),
    ((16, 64), (16, 16)),
    ((640, 8), (16, 160)),
    ((128, 128), (1, 1)),
    ((1, 1), (16, 16)),
    ((1, 1), (1, 1)),
    ((1, 512), (16, 16)),
    ((512, 1), (16, 16)),
]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("map_hw", "image_hw"), MAP_AND_IMAGE)
def test_a_map_of_any_size_is_diagnosed(map_hw: tuple[int, int], image_hw: tuple[int, int], aligned: bool) -> None:
    features = torch.rand(1, 4, *map_hw)
    for scale in (map_hw[0] / image_hw[0], 1.0, 1 / 16):
        diagnosis = roialign.diagnose(features, BOXES, 7, scale, 2, aligned, image_size=image_hw)
        assert diagnosis.coverage is not None
        assert str(diagnosis)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_boxes_that_are_read_rightly_from_a_finer_map_are_healthy(factor: int) -> None:
    features = torch.rand(1, 4, 16 * factor, 16 * factor)
    diagnosis = roialign.diagnose(features, BOXES, 7, float(factor), 2, True, image_size=(16, 16))
    assert [finding.code for finding in diagnosis.findings if finding.severity == "error"] == []


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_upsampler_is_watched(factor: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Upsample(scale_factor=factor))

    def pool(images: Tensor) -> Tensor:
        return roialign.roi_align(network(images), BOXES, 7, float(factor), 2, True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with roialign.watch() as seen, torch.no_grad():
            pool(torch.rand(1, 3, 16, 16))
        with roialign.watch(network) as traced, torch.no_grad():
            pool(torch.rand(1, 3, 16, 16))
    for report in (seen, traced):
        assert report.examined == 1
        assert [finding.code for finding in report.findings if finding.severity == "error"] == []
