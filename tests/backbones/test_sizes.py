"""Families of image sizes: what holds at one of them holds at all, as traces of the others say."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import roialign
from roialign.backbones.sizes import SizeFamily
from roialign.backbones.trace import strides_hold_at_any_size, trace_again

from . import networks


class SamePadding(nn.Module):
    """TensorFlow's padding: where it goes depends on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 5, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            sides = zip(image.shape[2:], layer.kernel_size, strict=True)
            totals = [max((-(-size // 2) - 1) * 2 + kernel - size, 0) for size, kernel in sides]
            image = layer(F.pad(image, [totals[1] // 2, -(-totals[1] // 2), totals[0] // 2, -(-totals[0] // 2)]))
        return image


class Adaptive(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image, 8)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, image: Tensor) -> Tensor:
        return self.patches(image).flatten(2).transpose(1, 2)


NETWORKS = {
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 4, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True)), 1),
    "resnet": (lambda: networks.resnet(basic=True, depths=(1, 1, 1, 1)), 1),
    "padding by size": (SamePadding, 4),
    "top-down path": (networks.fpn, None),
    "adaptive": (Adaptive, None),
    "tokens": (Tokens, None),
}


def numbers(trace: roialign.BackboneTrace) -> dict[str, tuple]:
    return {name: (grid.stride_yx, grid.structural_offset_yx) for name, grid in trace.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_holds_at_one_size_holds_in_the_whole_family(name):
    make, period = NETWORKS[name]
    backbone = make().eval()
    traced = roialign.trace(backbone, (64, 96), measured=False)
    family = SizeFamily.of(traced)
    if name == "top-down path":
        period = family.period
        assert period is not None
        assert 64 % period == 0
    assert family.period == period
    assert family.holds_at((64, 96))
    for size in ((128, 64), (71, 97), (193, 160), (68, 100)):
        if not family.holds_at(size):
            continue
        other = roialign.trace(backbone, size, measured=False)
        assert numbers(other) == numbers(traced)
        maps = other.as_maps(backbone(torch.zeros(1, 3, *size)))
        grids = family.grids(maps, size)
        assert {key: grid.size_hw for key, grid in grids.items()} == {key: grid.size_hw for key, grid in other.items()}
    assert family.holds_at((65, 96)) == (period == 1)
    assert family.holds_at((64 + 64, 96)) == (period is not None)


class Enlarged(nn.Module):
    """A map that is brought to the size of the image, as segmentation does: its stride is the ratio of the sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, stride=8, padding=4)

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(self.patches(image), size=[side // 4 for side in image.shape[2:]])


@pytest.mark.parametrize("size", [(64, 96), (71, 97)])
@pytest.mark.parametrize(
    ("make", "holds"),
    [(SamePadding, True), (networks.fpn, True), (Enlarged, False), (Adaptive, False), (Tokens, False)],
)
def test_strides_that_hold_at_any_size(make, size, holds):
    backbone = make().eval()
    traced = roialign.trace(backbone, size, measured=False)
    assert strides_hold_at_any_size(backbone, traced) == holds
    if holds:
        family = SizeFamily(traced, 1, exact=False)
        for other in ((128, 64), (71, 98), (193, 161), (70, 101)):
            wanted = roialign.trace(backbone, other, measured=False)
            grids = family.grids(wanted.as_maps(backbone(torch.zeros(1, 3, *other))), other)
            shown = {name: (grid.size_hw, grid.stride_yx, grid.offset_yx) for name, grid in grids.items()}
            assert shown == {name: (grid.size_hw, grid.stride_yx, grid.offset_yx) for name, grid in wanted.items()}


@pytest.mark.parametrize("make", [SamePadding, networks.fpn, Tokens])
@pytest.mark.parametrize("offset", ["convention", "structural"])
def test_traced_again_is_traced(make, offset):
    backbone = make().eval()
    before = roialign.trace(backbone, (64, 96), measured=False, offset=offset)
    again = trace_again(backbone, (71, 97), before, offset=offset)
    whole = roialign.trace(backbone, (71, 97), measured=False, offset=offset)
    assert dict(again) == dict(whole)
    assert again.methods == whole.methods


def test_another_way_at_another_size_is_found_out():
    traced = roialign.trace(nn.Conv2d(3, 4, 4, stride=4), (64, 96), measured=False)
    family = SizeFamily.of(traced)
    assert family.grids({"0": torch.zeros(1, 4, 32, 24)}, (128, 96)) is not None
    assert family.grids({"0": torch.zeros(1, 4, 16, 24)}, (128, 96)) is None
