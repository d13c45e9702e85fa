"""Coordinate frames: an image and what is made of it by resizing, padding, cropping, flipping and normalising."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch

from roialign.errors import FrameError
from roialign.geometry import html
from roialign.geometry.maps import SAME, AxisMap, ExactMap

Rounding = Literal["floor", "round", "half_up"]  # "round" is Python's: halves to even
# The EXIF orientations: whether the axes are exchanged, and then which are flipped, y and x.
_EXIF = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, repr=False)
class Frame:
    """An image, or what steps such as resizing and padding made of it, as a frame that boxes are numbers in.

    Convention: sizes are (height, width) in pixels; pixel (r, c) covers [c, c + 1) x [r, r + 1), so the whole
    frame is the box (0, 0, width, height), and a resize multiplies coordinates by the ratio of the sizes.

    Start with `Frame.image(size_hw)` and write down what the pipeline does: each method returns a new frame,
    whose `parent` is this one. Maps between frames of one image are exact.

    A frame is a value. Two images are never the same frame, even of the same size, for each gets a random
    `id`; a copy or a pickled frame keeps it, so a DataLoader's workers can make frames. Frames are equal if
    their images are and the steps that lead to them do the same. Names are for people and are not compared.

    Example:
        >>> photo = Frame.image((480, 640), name="photo")
        >>> photo.resize((800, 1066)).pad(left=0, top=0, right=22, bottom=0)
        Frame(photo 480x640 > resize 800x1066 > pad 800x1088)
    """

    size_hw: tuple[int, int]
    name: str = field(default="image", compare=False)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent: Frame | None = None
    _step: ExactMap = SAME  # from the parent to this frame

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_hw", _size(self.size_hw, f"for {self.name!r}"))

    @classmethod
    def image(cls, size_hw: tuple[int, int], *, name: str = "image", id: str | None = None) -> Frame:
        """A frame of its own: the pixels of an image as it was loaded.

        Args:
            size_hw: height and width in pixels; PIL's `image.size` is the other way round.
            name: what messages call it.
            id: says which image it is; random if left out. Give one (a file name, say) to make the same frame
                again in another program.

        Raises:
            FrameError: if the size is not two whole numbers above zero.

        Example:
            >>> Frame.image((480, 640)) == Frame.image((480, 640))
            False
            >>> Frame.image((480, 640), id="dog.jpg") == Frame.image((480, 640), id="dog.jpg")
            True
        """
        return cls(size_hw, name) if id is None else cls(size_hw, name, id)

    @property
    def root(self) -> Frame:
        """The image that this frame was made of; itself for an image."""
        return self if self.parent is None else self.parent.root

    @property
    def chain(self) -> tuple[Frame, ...]:
        """The frames from the image to this one, both included."""
        return tuple(self._upwards())[::-1]

    def is_connected(self, other: Frame) -> bool:
        """Whether both frames were made of one image, so that there is a map between them."""
        return self.root == other.root

    def map_to(self, other: Frame) -> AxisMap:
        """The map that takes coordinates of this frame to coordinates of `other`, by way of what both were made of.

        Raises:
            FrameError: RA107, if they were made of different images.

        Example:
            >>> photo = Frame.image((480, 640))
            >>> photo.crop(top=100, left=50, height=200, width=200).map_to(photo.flip_horizontal())
            AxisMap(scale_yx=(1.0, -1.0), shift_yx=(100.0, 590.0))
        """
        if not self.is_connected(other):
            raise FrameError(_no_path(self, other))
        down: dict[Frame, ExactMap] = {}
        way = SAME
        for frame in other._upwards():
            down[frame] = way
            way = frame._step.then(way)
        way = SAME
        for frame in self._upwards():
            if frame in down:
                way = way.then(down[frame])
                break
            way = way.then(frame._step.inverse())
        return way.rounded()

    def resize(self, size_hw: tuple[int, int]) -> Frame:
        """Stretched to `size_hw`: x becomes x * new width / old width.

        So do PIL, OpenCV and torch's bilinear, bicubic and "nearest-exact" with `align_corners=False`.
        """
        size_hw = _size(size_hw, "to resize to")
        scale = [Fraction(new, old) for new, old in zip(size_hw, self.size_hw, strict=True)]
        return self.affine(size_hw, (scale[0], scale[1]), (0, 0), name="resize")

    def resize_shorter(self, size: int, max_size: int | None = None, rounding: Rounding = "floor") -> Frame:
        """Resized in proportion: the shorter side to `size`, or less where the longer would pass `max_size`.

        Args:
            size: of the shorter side.
            max_size: the most that the longer side may be.
            rounding: of the other side. "floor" is `torchvision.transforms.v2.Resize`, "half_up" detectron2's
                `ResizeShortestEdge`.

        Example:
            >>> Frame.image((480, 640)).resize_shorter(800, max_size=1000).size_hw
            (750, 1000)
        """
        shorter, longer = sorted(self.size_hw)
        unrounded = Fraction(size * longer, shorter)
        other = _round(unrounded, rounding)
        # torchvision floors the longer side before it looks at max_size, detectron2 rounds when all is done
        before = Fraction(other) if rounding == "floor" else unrounded
        if max_size is not None and before > max_size:
            size, other = _round(max_size * size / before, rounding), max_size
        return self.resize((size, other) if self.size_hw[0] <= self.size_hw[1] else (other, size))

    def resize_longer(self, size: int, rounding: Rounding = "half_up") -> Frame:
        """Resized in proportion: the longer side to `size`, the other rounded; "half_up" as Segment Anything does."""
        height, width = self.size_hw
        longer = max(height, width)
        sides = [max(1, _round(Fraction(side * size, longer), rounding)) for side in (height, width)]
        return self.resize((sides[0], sides[1]))

    def letterbox(
        self,
        size_hw: tuple[int, int],
        padding: Literal["center", "bottom_right"] | tuple[int, int, int, int] = "center",
        *,
        upscale: bool = True,
        rounding: Rounding = "round",
    ) -> Frame:
        """Resized in proportion until it fits into `size_hw`, then padded to it: two steps.

        Args:
            size_hw: the whole, padding included.
            padding: "center" puts half on each side, an odd pixel to the right or the bottom, as YOLO's
                letterbox does; "bottom_right" puts all there; (left, top, right, bottom) are exact pixels,
                and the image is resized to what they leave.
            upscale: whether a smaller image is enlarged.
            rounding: of the resized sides.

        Example:
            >>> Frame.image((480, 640), name="photo").letterbox((640, 640))
            Frame(photo 480x640 > resize 480x640 > pad 640x640)
        """
        height, width = _size(size_hw, "to letterbox to")
        if not isinstance(padding, str):
            left, top, right, bottom = padding
            return self.resize((height - top - bottom, width - left - right)).pad(left, top, right, bottom)
        ratio = min(Fraction(height, self.size_hw[0]), Fraction(width, self.size_hw[1]))
        ratio = ratio if upscale else min(ratio, Fraction(1))
        sides = [max(1, _round(side * ratio, rounding)) for side in self.size_hw]
        rest_y, rest_x = height - sides[0], width - sides[1]
        if padding not in ("center", "bottom_right"):
            raise FrameError(
                f'RA107: expected padding "center", "bottom_right" or (left, top, right, bottom); got {padding!r}.'
            )
        top, left = (rest_y // 2, rest_x // 2) if padding == "center" else (0, 0)
        return self.resize((sides[0], sides[1])).pad(left, top, rest_x - left, rest_y - top)

    def pad(self, left: int, top: int, right: int, bottom: int) -> Frame:
        """With so many pixels added on each side: `torchvision.transforms.v2.Pad`'s order. Negative ones crop."""
        height, width = self.size_hw
        return self.affine((top + height + bottom, left + width + right), (1, 1), (top, left), name="pad")

    def crop(self, top: int, left: int, height: int, width: int) -> Frame:
        """The part of so many pixels whose first is (top, left): `torchvision`'s order. It may reach outside."""
        return self.affine((height, width), (1, 1), (-top, -left), name="crop")

    def flip_horizontal(self) -> Frame:
        """Left and right exchanged: x becomes width - x."""
        return self.affine(self.size_hw, (1, -1), (0, self.size_hw[1]), name="flip horizontally")

    def flip_vertical(self) -> Frame:
        """Top and bottom exchanged: y becomes height - y."""
        return self.affine(self.size_hw, (-1, 1), (self.size_hw[0], 0), name="flip vertically")

    def transpose(self) -> Frame:
        """x and y exchanged, as in a transposed matrix: the first row of pixels becomes the first column."""
        height, width = self.size_hw
        return self._stepped((width, height), (1, 1), (0, 0), "transpose", transposed=True)

    def exif_transpose(self, orientation: int) -> Frame:
        """The upright picture of an image that is stored otherwise, as `PIL.ImageOps.exif_transpose` turns it.

        Args:
            orientation: EXIF's, `image.getexif().get(0x0112, 1)`. 1: upright, which is this frame itself;
                2: flipped horizontally; 3: turned by 180 degrees; 4: flipped vertically; 5: transposed; 6: to be
                turned by 90 degrees clockwise; 7: transposed along the other diagonal; 8: to be turned by 90
                degrees anticlockwise. The axes are exchanged from 5 on.

        Raises:
            FrameError: RA107, for any other number.

        Example:
            >>> stored = Frame.image((480, 640), name="stored")
            >>> upright = stored.exif_transpose(6)
            >>> upright
            Frame(stored 480x640 > exif orientation 6 640x480)
            >>> stored.map_to(upright).boxes(torch.tensor([[0.0, 0.0, 10.0, 20.0]]))
            tensor([[460.,   0., 480.,  10.]])
        """
        if isinstance(orientation, bool) or orientation not in range(1, 9):
            raise FrameError(
                f"RA107: expected an EXIF orientation, a whole number from 1 to 8; got {orientation!r}. Where an image "
                "has none take 1: image.getexif().get(0x0112, 1)."
            )
        if orientation == 1:
            return self
        transposed, *flipped = _EXIF[orientation]
        size_hw = self.size_hw[::-1] if transposed else self.size_hw
        height, width = ((-1 if flip else 1, side if flip else 0) for flip, side in zip(flipped, size_hw, strict=True))
        return self._stepped(
            size_hw, (height[0], width[0]), (height[1], width[1]), f"exif orientation {orientation}", transposed
        )

    def normalise(self) -> Frame:
        """Coordinates as fractions of the height and the width: the whole frame is (0, 0, 1, 1)."""
        height, width = self.size_hw
        return self.affine((1, 1), (Fraction(1, height), Fraction(1, width)), (0, 0), name="normalise")

    def affine(
        self,
        size_hw: tuple[int, int],
        scale_yx: tuple[float | Fraction, float | Fraction],
        shift_yx: tuple[float | Fraction, float | Fraction],
        *,
        name: str = "affine",
    ) -> Frame:
        """Any step that acts along each axis on its own: coordinates become `scale_yx * old + shift_yx`.

        Args:
            size_hw: of the result.
            scale_yx: of any value but zero; below zero for a flip.
            shift_yx: in pixels of the result.
            name: what messages call the step.

        Raises:
            FrameError: if the size is not two whole numbers above zero, or a scale is zero or not finite.

        Example:
            >>> Frame.image((480, 640)).affine((96, 96), scale_yx=(0.2, 0.15), shift_yx=(0.0, 0.0)).size_hw
            (96, 96)
        """
        return self._stepped(size_hw, scale_yx, shift_yx, name)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers and strings, for JSON; `from_dict` reads it back, and the frames are equal."""
        root, *steps = self.chain
        return {
            "id": root.id,
            "name": root.name,
            "size_hw": list(root.size_hw),
            "steps": [
                {
                    "name": step.name,
                    "size_hw": list(step.size_hw),
                    "scale_yx": [str(step._step.y[0]), str(step._step.x[0])],
                    "shift_yx": [str(step._step.y[1]), str(step._step.x[1])],
                    "transposed": step._step.transposed,
                }
                for step in steps
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Frame:
        """The frame whose `to_dict` this is.

        Example:
            >>> frame = Frame.image((480, 640)).resize((800, 1066))
            >>> Frame.from_dict(frame.to_dict()) == frame
            True
        """
        frame = cls.image(record["size_hw"], name=record["name"], id=record["id"])
        for step in record["steps"]:
            (scale_y, scale_x), (shift_y, shift_x) = (map(Fraction, step[key]) for key in ("scale_yx", "shift_yx"))
            frame = frame._stepped(
                step["size_hw"], (scale_y, scale_x), (shift_y, shift_x), step["name"], step.get("transposed", False)
            )
        return frame

    def __str__(self) -> str:
        return " > ".join(f"{frame.name} {frame.size_hw[0]}x{frame.size_hw[1]}" for frame in self.chain)

    def __repr__(self) -> str:
        return f"Frame({self})"

    def _repr_html_(self) -> str:
        """The steps, what each does to coordinates, and where the image lies in the last, for a notebook."""
        chain = self.chain
        shown = chain if len(chain) <= html.MOST_ROWS else chain[: html.MOST_ROWS - 1] + chain[-1:]
        rows = (
            (f.name, f"{f.size_hw[0]} x {f.size_hw[1]}", *(_words(f, axis) for axis in (1, 0)))  # x first, as in boxes
            for f in shown
        )
        table = html.table(("step", "height x width", "x becomes", "y becomes"), rows, len(chain) - len(shown))
        if self.parent is None:
            return html.block(table)
        height, width = self.root.size_hw
        image_xyxy = self.root.map_to(self).boxes(torch.tensor([[0.0, 0.0, width, height]]))
        said = html.line(f"This frame, and in orange all of {self.root.name}:")
        return html.block(table, said, html.outlines(self.size_hw, image_xyxy.tolist()))

    def _stepped(
        self,
        size_hw: tuple[int, int],
        scale_yx: tuple[float | Fraction, float | Fraction],
        shift_yx: tuple[float | Fraction, float | Fraction],
        name: str,
        transposed: bool = False,
    ) -> Frame:
        try:
            (scale_y, scale_x), (shift_y, shift_x) = (map(_exact, pair) for pair in (scale_yx, shift_yx))
        except (ValueError, OverflowError):
            scale_y = scale_x = shift_y = shift_x = Fraction(0)
        if not scale_y or not scale_x:
            raise FrameError(
                f"RA107: expected finite scales other than zero and finite shifts; got scale_yx={tuple(scale_yx)} and "
                f"shift_yx={tuple(shift_yx)}. Pass scale_yx=(new height / old height, new width / old width)."
            )
        step = ExactMap((scale_y, shift_y), (scale_x, shift_x), transposed)
        return Frame(_size(size_hw, f"after {name}"), name, self.id, self, step)

    def _upwards(self) -> Iterator[Frame]:
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent


def _words(frame: Frame, axis: int) -> str:
    """What the step to this frame does to a coordinate."""
    if frame.parent is None:
        return ""
    scale, shift = map(float, frame._step[:2][axis])
    name = "xy"[axis] if frame._step.transposed else "yx"[axis]
    scaled = {1.0: name, -1.0: f"-{name}"}.get(scale, f"{scale:.6g} {name}")
    if scale < 0 and shift:
        return f"{shift:.6g} - {scaled.lstrip('-')}"
    return f"{scaled} {'-' if shift < 0 else '+'} {abs(shift):.6g}" if shift else scaled


def _exact(value: float | Fraction) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(float(value))


def _round(value: Fraction, rounding: Rounding) -> int:
    if rounding == "round":
        return round(value)
    return int(value if rounding == "floor" else value + Fraction(1, 2))


def _size(size_hw: Sequence[int], where: str) -> tuple[int, int]:
    try:
        height, width = (operator.index(side) for side in size_hw)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise FrameError(
            f"RA107: expected a size (height, width) of whole numbers above zero {where}; got {size_hw!r}. For "
            "an image tensor [C, H, W] that is tuple(image.shape[-2:]), for a PIL image (image.height, image.width)."
        )
    return height, width


def _no_path(source: Frame, target: Frame) -> str:
    roots = source.root, target.root
    alike = roots[0].size_hw == roots[1].size_hw and roots[0].id != roots[1].id
    return (
        f"RA107: expected two frames of one image; got [{source}] and [{target}], made of different images with the "
        f"ids {roots[0].id!r} and {roots[1].id!r}"
        + (", though of the same size" if alike else "")
        + ". Make both from one frame: photo = Frame.image(size_hw), then photo.resize(...) and so on. If it is one "
        'image that was loaded twice, say so: Frame.image(size_hw, id="its file name").'
    )
