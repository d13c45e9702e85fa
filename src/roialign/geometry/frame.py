"""Coordinate frames: an image and what is made of it by resizing, padding, cropping, flipping and normalising."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from roialign.errors import FrameError
from roialign.geometry import html

Rounding = Literal["floor", "round", "half_up"]  # "round" is Python's: halves to even
_Line = tuple[Fraction, Fraction]  # scale and shift along one axis: exact, so that no chain of steps rounds
_Lines = tuple[_Line, _Line]  # along y, along x
_SAME: _Lines = ((Fraction(1), Fraction(0)), (Fraction(1), Fraction(0)))


@dataclass(frozen=True)
class AxisMap:
    """The map from one frame to another, along each axis on its own: `scale_yx * source + shift_yx`.

    Convention: pairs are (y, x), in pixels of the frames; a negative scale is a flip. The numbers are the
    exact map of the whole chain of steps, rounded once to float64.

    Example:
        >>> photo = Frame.image((480, 640))
        >>> photo.map_to(photo.resize((240, 320)).pad(left=8, top=0, right=0, bottom=0))
        AxisMap(scale_yx=(0.5, 0.5), shift_yx=(0.0, 8.0))
    """

    scale_yx: tuple[float, float]
    shift_yx: tuple[float, float]

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes [N, 4] of the source frame in the target frame: computed in float64, returned in their own type.

        A flip swaps the edges, so that x1 <= x2 and y1 <= y2 stay true. Differentiable; deterministic.
        """
        (scale_y, scale_x), (shift_y, shift_x) = self.scale_yx, self.shift_yx
        wide = torch.float32 if boxes_xyxy.device.type == "mps" else torch.float64  # MPS has no float64
        scale = torch.tensor([scale_x, scale_y] * 2, dtype=wide, device=boxes_xyxy.device)
        shift = torch.tensor([shift_x, shift_y] * 2, dtype=wide, device=boxes_xyxy.device)
        mapped = boxes_xyxy.to(wide) * scale + shift
        if scale_x < 0 or scale_y < 0:
            left, top = 2 * (scale_x < 0), 1 + 2 * (scale_y < 0)
            mapped = mapped[..., [left, top, 2 - left, 4 - top]]
        return mapped.to(boxes_xyxy.dtype)


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
    _lines: _Lines = _SAME  # from the parent to this frame

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
        down: dict[Frame, _Lines] = {}
        lines = _SAME
        for frame in other._upwards():
            down[frame] = lines
            lines = _both(frame._lines, lines)
        lines = _SAME
        for frame in self._upwards():
            if frame in down:
                lines = _both(lines, down[frame])
                break
            lines = _both(lines, _inverse(frame._lines))
        (scale_y, shift_y), (scale_x, shift_x) = lines
        return AxisMap((float(scale_y), float(scale_x)), (float(shift_y), float(shift_x)))

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
        try:
            (scale_y, scale_x), (shift_y, shift_x) = (map(_exact, pair) for pair in (scale_yx, shift_yx))
        except (ValueError, OverflowError):
            scale_y = scale_x = shift_y = shift_x = Fraction(0)
        if not scale_y or not scale_x:
            raise FrameError(
                f"RA107: expected finite scales other than zero and finite shifts; got scale_yx={tuple(scale_yx)} and "
                f"shift_yx={tuple(shift_yx)}. Pass scale_yx=(new height / old height, new width / old width)."
            )
        return Frame(_size(size_hw, f"after {name}"), name, self.id, self, ((scale_y, shift_y), (scale_x, shift_x)))

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
                    "scale_yx": [str(scale) for scale, _ in step._lines],
                    "shift_yx": [str(shift) for _, shift in step._lines],
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
            frame = frame.affine(step["size_hw"], (scale_y, scale_x), (shift_y, shift_x), name=step["name"])
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

    def _upwards(self) -> Iterator[Frame]:
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent


def _words(frame: Frame, axis: int) -> str:
    """What the step to this frame does to a coordinate."""
    if frame.parent is None:
        return ""
    scale, shift = map(float, frame._lines[axis])
    name = "yx"[axis]
    scaled = {1.0: name, -1.0: f"-{name}"}.get(scale, f"{scale:.6g} {name}")
    if scale < 0 and shift:
        return f"{shift:.6g} - {scaled.lstrip('-')}"
    return f"{scaled} {'-' if shift < 0 else '+'} {abs(shift):.6g}" if shift else scaled


def _exact(value: float | Fraction) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(float(value))


def _then(first: _Line, second: _Line) -> _Line:
    return first[0] * second[0], first[1] * second[0] + second[1]


def _both(first: _Lines, second: _Lines) -> _Lines:
    return _then(first[0], second[0]), _then(first[1], second[1])


def _inverse(lines: _Lines) -> _Lines:
    (scale_y, shift_y), (scale_x, shift_x) = lines
    return (1 / scale_y, -shift_y / scale_y), (1 / scale_x, -shift_x / scale_x)


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
