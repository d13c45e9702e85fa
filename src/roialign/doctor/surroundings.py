"""What goes on around a call, as far as `watch` saw it: the pooler that makes it, what was done to its images."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from roialign.backbones.scrambled import Scrambled
from roialign.doctor.bars import Picture
from roialign.doctor.pyramid import Pyramid
from roialign.geometry import Frame

Size = tuple[int, int]


@dataclass(frozen=True)
class Mosaic:
    """An image that was put together of tiles of one size, in rows and columns."""

    tile_hw: Size
    rows: int
    columns: int


@dataclass(frozen=True)
class Tokens:
    """The tokens [N, count, C] of a module that a map was made of."""

    count: int
    first: int
    """Which of them is the first cell of the map."""
    transposed: bool = True
    """False where tokens and channels were not exchanged: a reshape of [N, count, C] to [N, C, H, W]."""


@dataclass(frozen=True)
class Surroundings:
    """What is known beyond the call itself."""

    pyramid: Pyramid | None = None
    pictures: tuple[Picture | None, ...] = ()
    """The part of each image of the batch that has content, in pixels of the tensor; None where all of it has."""
    images: Tensor | None = field(default=None, repr=False)
    """The batch [N, C, H, W] that entered the network, if it is still held."""
    frames: tuple[Frame | None, ...] = ()
    """Of each image of that batch the frame of its tensor; `chain` leads to it from the photograph, through all that
    was seen done to it: resized, padded, cropped, flipped. None or empty where nothing was seen. The root is the first
    image that was seen, which may have been resized before; where nothing was done to that, the chain ends with it."""
    mosaic: Mosaic | None = None
    """The tiles that each image of the batch was put together of."""
    detected_in: tuple[Frame | None, ...] = ()
    """Of each image the frame that these very boxes were in when they left a detection model, None where it has no such
    boxes; empty where no image has. Connected with `frames` where the image that the network got is known to be made of
    the one that the detector was given, or of one of the same size."""
    pooled_before: bool = False
    """Whether the features are the output of an earlier RoI operator."""
    tokens: Tokens | None = None
    scrambled: Scrambled | None = None
    """The map as the module that made it was traced, where its cells are not in the order of the image."""
