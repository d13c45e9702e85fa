"""What goes on around a call, as far as `watch` saw it: the pooler that makes it, what was done to its images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from roialign.backbones.scrambled import Scrambled
from roialign.doctor.bars import Picture
from roialign.doctor.pyramid import Pyramid
from roialign.geometry import Frame

Size = tuple[int, int]
_UPRIGHT = "upright picture"


def stored_turned(size_hw: Size, orientation: int) -> Frame:
    """The frame of a picture as a file stores it whose EXIF orientation says to turn it; its parent is upright."""
    upright_hw = size_hw[::-1] if orientation >= 5 else size_hw
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = Frame.image(upright_hw, name=_UPRIGHT).exif_transpose(back)
    return replace(stored, name=f"stored with EXIF orientation {orientation}")


class Turned(NamedTuple):
    """What entered a network of a picture that a file stores turned: the upright one, or the one as it is stored."""

    is_upright: bool
    first: int
    """Where the chain of frames is first turned as it entered."""
    other: Frame
    """The picture that did not enter: as it is stored, or upright."""

    @classmethod
    def of(cls, entered: Frame) -> Turned | None:
        """None of a picture whose file does not say that it is to be turned."""
        chain = entered.chain
        if chain[0].name != _UPRIGHT or len(chain) == 1:
            return None
        for index, frame in enumerate(chain[2:], 2):
            done = chain[0].map_to(frame)
            if not done.transposed and min(done.scale_yx) > 0:
                return cls(True, index, chain[1])
        return cls(False, 1, chain[0])

    def left_out(self, entered: Frame) -> Frame:
        """The frame of what would have entered of the other picture, had all been done to it but the turn."""
        done = entered.chain[self.first].map_to(entered)
        scale_yx, shift_yx, size_hw = done.scale_yx, done.shift_yx, entered.size_hw
        if self.other.map_to(entered).transposed:
            scale_yx, shift_yx, size_hw = scale_yx[::-1], shift_yx[::-1], size_hw[::-1]
        return self.other.affine(size_hw, scale_yx, shift_yx)


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
    """False where tokens and channels were not transposed: a reshape of [N, count, C] to [N, C, H, W]."""


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
