"""Offsets that depend on the image size: the note is there at every size, and true."""

from __future__ import annotations

import re

import pytest
from torch import Tensor, nn
from torch.nn import functional

from roialign.backbones import trace


class Same(nn.Module):
    """TensorFlow's SAME padding before a layer: what is odd goes to the bottom and the right."""

    def __init__(self, layer: nn.Module, kernel: int, stride: int) -> None:
        super().__init__()
        self.layer, self.kernel, self.stride = layer, kernel, stride

    def forward(self, image: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (image.shape[3], image.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        maps: Tensor = self.layer(functional.pad(image, pads) if any(pads) else image)
        return maps


def slim_stem() -> nn.Module:
    """TF-Slim's ResNet v1: the first convolution is padded alike at all sizes, the pooling is not."""
    pool = Same(nn.MaxPool2d(3, 2), 3, 2)
    return nn.Sequential(nn.ZeroPad2d(3), nn.Conv2d(3, 4, 7, 2), pool, nn.Conv2d(4, 4, 3, 2, 1))


def same_chain() -> nn.Module:
    return nn.Sequential(*(Same(nn.Conv2d(3, 3, 3, 2), 3, 2) for _ in range(4)))


def late_same() -> nn.Module:
    """Only the last of the layers, at stride 8, is padded by size."""
    return nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(3)), Same(nn.Conv2d(3, 3, 5, 2), 5, 2))


def stride_three() -> nn.Module:
    return nn.Sequential(Same(nn.Conv2d(3, 3, 3, 3), 3, 3), Same(nn.Conv2d(3, 3, 4, 3), 4, 3))


def padded_patches() -> nn.Module:
    return Same(nn.Conv2d(3, 3, 16, 16), 16, 16)


def offset_at(backbone: nn.Module, size: int) -> float:
    return trace(backbone, (size, size), measured=False)["0"].structural_offset_yx[0]


def check(backbone: nn.Module, size: int) -> None:
    said = [note for note in trace(backbone, (size, size), measured=False).notes if "depends on the image size" in note]
    assert len(said) == 1, size
    found = re.search(r"The offset .*; at (\d+) x \1 it is: 0: ([-\d.]+)\.$", said[0])
    assert found, said
    there = int(found[1])
    assert there != size
    assert float(found[2]) == offset_at(backbone, there) != offset_at(backbone, size)


@pytest.mark.parametrize("size", [224, 225, 299, 300, 301, 302, 303])
@pytest.mark.parametrize("make", [slim_stem, same_chain])
def test_the_note_is_there_at_each_of_the_sizes(make, size):
    check(make(), size)


@pytest.mark.parametrize("make", [slim_stem, late_same, stride_three, padded_patches])
def test_the_note_is_there_at_every_remainder(make):
    backbone = make()
    for size in range(64, 80):
        check(backbone, size)


@pytest.mark.parametrize("size", [64, 65, 66, 67])
def test_no_note_where_nothing_depends_on_the_size(size):
    fixed = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    cut_at_the_end = Same(nn.Conv2d(3, 4, 2, 2), 2, 2)  # what is odd goes to the end: nothing moves
    for backbone in (fixed, cut_at_the_end):
        notes = trace(backbone, (size, size), measured=False).notes
        assert not [note for note in notes if "The offset" in note]
