"""Where branches of different offsets meet: the finest one's offset, the field's centre and the range are told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roialign.backbones import trace

from . import networks


class BlockD(nn.Module):
    """ResNet-D's way down: a convolution of stride 2 beside a shortcut that pools."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.Conv2d(8, 8, 3, 2, 1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.shortcut(x)


class CoarserAbove(nn.Module):
    """A map with a coarser one added, as in an FPN."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        return fine + functional.interpolate(self.coarse(fine), scale_factor=2)


def test_the_finest_branch_and_the_centre_of_the_field_are_two_numbers():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), BlockD(8), BlockD(8))
    traced = trace(backbone, (64, 96), measured=False)
    grid = traced["0"]
    assert grid.structural_offset_yx == (6.5, 6.5)
    assert grid.receptive_field_centre_yx == (0.5, 0.5)
    assert grid.offset_range_yx == ((0.5, 6.5), (0.5, 6.5))
    assert traced.notes == (
        "Branches of different offsets meet, or cells lie unevenly; offset and px off are the finest branch's, the "
        "range is: 0: 0.5 to 6.5, the receptive field's centre 0.5.",
    )
    assert json.loads(json.dumps(traced.to_dict()))["maps"]["0"]["receptive_field_centre_yx"] == [0.5, 0.5]
    row = next(line for line in str(traced).splitlines() if line.startswith("0 "))
    assert row.split()[-2:] == ["+1.5", "-6.5"]  # by the finest branch


def test_one_way_has_one_centre():
    grid = trace(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)), (64, 96), measured=False)["0"]
    assert grid.structural_offset_yx == grid.receptive_field_centre_yx == (1.5, 1.5)


@pytest.mark.parametrize("layer", [CoarserAbove(), nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GroupNorm(1, 4))])
def test_a_field_of_coarser_maps_or_of_the_whole_image_has_no_centre(layer):
    grid = trace(layer, (64, 96), measured=False)["0"]
    assert grid.structural_offset_yx == (0.5, 0.5)
    assert grid.receptive_field_centre_yx is None


def test_timm_resnet50d():
    pytest.importorskip("timm")
    traced = trace(networks.from_timm("resnet50d"), (224, 224), measured=False)
    assert [grid.structural_offset_yx[0] for grid in traced.values()] == [0.5, 0.5, 2.5, 6.5, 14.5]
    assert [grid.receptive_field_centre_yx for grid in traced.values()] == [(0.5, 0.5)] * 5


@pytest.mark.parametrize(("inner", "least", "most"), [(0.0, 6.4, 6.6), (1.0, 1.0, 6.0)])
def test_weights_that_leave_out_a_branch_respond_at_the_other(inner, least, most):
    """Residual branches that start at zero leave the finest branch, at its offset; with both it is between the two."""
    centroids = []
    for seed in range(8):
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), *map(BlockD, (8, 8))
        )
        for block in backbone[3:]:
            block.inner[1].weight.data *= inner
        image = torch.randn(1, 3, 256, 256, requires_grad=True)
        (gradient,) = torch.autograd.grad(backbone(image)[0, :, 8, 8] @ torch.randn(8), image)
        weights = gradient.square().sum((0, 1, 2))
        centroids.append(float(weights @ (torch.arange(256) + 0.5) / weights.sum()) - 8 * 16)
    assert least < sum(centroids) / len(centroids) < most
