"""What goes on around a call, as far as `watch` saw it: the pooler that makes it, what was done to its images."""

from __future__ import annotations

from dataclasses import dataclass

from roialign.doctor.bars import Picture
from roialign.doctor.pyramid import Pyramid

Size = tuple[int, int]


@dataclass(frozen=True)
class Photographs:
    """The images of a batch before and after torchvision's GeneralizedRCNNTransform; sizes are (height, width)."""

    original_hw: tuple[Size, ...]
    resized_hw: tuple[Size, ...]
    """Before they were padded to one size."""


@dataclass(frozen=True)
class Surroundings:
    """What is known beyond the call itself."""

    photographs: Photographs | None = None
    pyramid: Pyramid | None = None
    pictures: tuple[Picture | None, ...] = ()
    """The part of each image of the batch that lies between the bars of a letterbox; None where there are none."""
