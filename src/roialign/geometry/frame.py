"""Coordinate frames: an image and what is made of it by resizing, padding, cropping, flipping and turning."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import takewhile
from typing import Any, Literal

import torch

from roialign.errors import FrameError
from roialign.geometry import fitting, html, records, values
from roialign.geometry.fitting import Rounding
from roialign.geometry.maps import EXIF, SAME, AxisMap, ExactMap, Line, composed, exact_map, upright

_Pair = tuple[float | Fraction, float | Fraction]
_MOST_SHOWN = 20  # steps in a message


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """A frame of coordinates: an image, or what resizing, padding and other steps made of it.

    Convention: sizes are (height, width) in pixels; pixel (r, c) covers [c, c + 1) x [r, r + 1), so the whole
    frame is the box (0, 0, width, height), and a resize multiplies coordinates by the ratio of the sizes.

    Start with `Frame.image(size_hw)` and repeat the pipeline's steps: each method returns a new frame, whose `parent`
    is this one. Maps between frames of one image are exact.

    A frame is a value. Two images are never the same frame, even of the same size, because each gets a random `id`; a
    copy or a pickled frame keeps it, so a DataLoader's workers can make frames. Frames are equal if their images are
    and the steps that lead to them do the same. Names are for people and are not compared.

    Example:
        >>> photo = Frame.image((480, 640), name="photo")
        >>> photo.resize((800, 1066)).pad(left=0, top=0, right=22, bottom=0)
        Frame(photo 480x640 > resize 800x1066 > pad 800x1088)
    """

    size_hw: tuple[int, int]
    name: str = "image"
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent: Frame | None = None
    _step: ExactMap = SAME  # from the parent to this frame
    _root: Frame | None = field(default=None, init=False)  # None: itself
    _from_image: ExactMap | None = field(default=None, init=False)  # once it was asked for
    _hash: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for what in ("name", "id"):
            if not isinstance(getattr(self, what), str):
                raise FrameError(
                    f"RA107: expected {what}, a str; got {values.shown(getattr(self, what))}. Use str(...)."
                )
        keep = object.__setattr__
        where = f"for {self.name!r}" if self.parent is None else f"after {self.name}"
        keep(self, "size_hw", values.frame_size(self.size_hw, where))
        if self.parent is None:
            keep(self, "_from_image", SAME)
        else:
            keep(self, "_root", _frame(self.parent).root)
            keep(self, "id", self.parent.id)
        keep(self, "_hash", hash((self.size_hw, self.id, self._step, self.parent)))

    @classmethod
    def image(cls, size_hw: tuple[int, int], *, name: str = "image", id: str | None = None) -> Frame:
        """A new frame: the pixels of an image as it was loaded.

        Args:
            size_hw: height and width in pixels; PIL's `image.size` is the other way round.
            name: what messages call it.
            id: identifies the image; random by default. Pass one (such as a file name) to make the same frame in
                another program.

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
        """The image that this frame was made from; itself for an image."""
        return self if self._root is None else self._root

    @property
    def chain(self) -> tuple[Frame, ...]:
        """The frames from the image to this one, both included."""
        return tuple(self._upwards())[::-1]

    def is_connected(self, other: Frame) -> bool:
        """Whether both frames were made from one image, so that there is a map between them."""
        return self.root == _frame(other).root

    def map_to(self, other: Frame) -> AxisMap:
        """The map from coordinates of this frame to those of `other`.

        Raises:
            FrameError: RA107, if they were made from different images.

        Example:
            >>> photo = Frame.image((480, 640))
            >>> photo.crop(top=100, left=50, height=200, width=200).map_to(photo.flip_horizontal())
            AxisMap(scale_yx=(1.0, -1.0), shift_yx=(100.0, 590.0))
        """
        if not self.is_connected(other):
            raise FrameError(_no_path(self, other))
        way = self._way().inverse().then(other._way())
        try:
            return way.rounded()
        except OverflowError:
            raise FrameError(
                f"RA107: expected a map that float64 can hold; got one from [{self}] to [{other}] that is out of "
                "range. Look for a step with an absurd scale."
            ) from None

    def resize(self, size_hw: tuple[int, int]) -> Frame:
        """Stretched to `size_hw`: x becomes x * new width / old width.

        So do PIL, OpenCV and torch's bilinear, bicubic and "nearest-exact" with `align_corners=False`.
        """
        size_hw = values.frame_size(size_hw, "to resize to")
        y, x = map(Line.ratio, size_hw, self.size_hw)
        return self._stepped(size_hw, ExactMap(y, x), "resize")

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
        return self.resize(fitting.by_shorter(self.size_hw, size, max_size, rounding))

    def resize_longer(self, size: int, rounding: Rounding = "half_up") -> Frame:
        """Resized in proportion: the longer side to `size`, the other rounded; "half_up" as Segment Anything does."""
        return self.resize(fitting.by_longer(self.size_hw, size, rounding))

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
        height, width = values.frame_size(size_hw, "to letterbox to")
        sides = values.wholes(padding, 4)
        if sides is not None:
            left, top, right, bottom = sides
            return self.resize((height - top - bottom, width - left - right)).pad(left, top, right, bottom)
        if padding not in ("center", "bottom_right"):
            raise FrameError(
                'RA107: expected padding "center", "bottom_right" or (left, top, right, bottom) in whole pixels; got '
                f"{values.shown(padding)}."
            )
        resized = self.resize(fitting.within(self.size_hw, (height, width), upscale, rounding))
        rest_y, rest_x = height - resized.size_hw[0], width - resized.size_hw[1]
        top, left = (rest_y // 2, rest_x // 2) if padding == "center" else (0, 0)
        return resized.pad(left, top, rest_x - left, rest_y - top)

    def pad(self, left: int, top: int, right: int, bottom: int) -> Frame:
        """With so many pixels added on each side: `torchvision.transforms.v2.Pad`'s order. Negative ones crop."""
        left, top, right, bottom = values.pixels("left, top, right, bottom", left, top, right, bottom)
        height, width = self.size_hw
        return self._stepped(
            (top + height + bottom, left + width + right), ExactMap(Line.moved(top), Line.moved(left)), "pad"
        )

    def crop(self, top: int, left: int, height: int, width: int) -> Frame:
        """The part of so many pixels whose first is (top, left): `torchvision`'s order. It may reach outside."""
        top, left, height, width = values.pixels("top, left, height, width", top, left, height, width)
        return self._stepped((height, width), ExactMap(Line.moved(-top), Line.moved(-left)), "crop")

    def flip_horizontal(self) -> Frame:
        """Left and right swapped: x becomes width - x."""
        return self._stepped(self.size_hw, SAME._replace(x=Line.flipped(self.size_hw[1])), "flip horizontally")

    def flip_vertical(self) -> Frame:
        """Top and bottom swapped: y becomes height - y."""
        return self._stepped(self.size_hw, SAME._replace(y=Line.flipped(self.size_hw[0])), "flip vertically")

    def transpose(self) -> Frame:
        """x and y swapped, as in a transposed matrix: the first row of pixels becomes the first column."""
        height, width = self.size_hw
        return self._stepped((width, height), SAME._replace(transposed=True), "transpose")

    def exif_transpose(self, orientation: int) -> Frame:
        """The upright picture of an image stored in another orientation, as `PIL.ImageOps.exif_transpose` turns it.

        Args:
            orientation: EXIF's, `image.getexif().get(0x0112, 1)`. 1: upright, which is this frame itself; 2: flipped
                horizontally; 3: turned by 180 degrees; 4: flipped vertically; 5: transposed; 6: to be turned by 90
                degrees clockwise; 7: transposed along the other diagonal; 8: to be turned by 90 degrees anticlockwise.
                The axes are swapped from 5 on.

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
        known = values.whole(orientation)
        if known not in EXIF:
            raise FrameError(
                f"RA107: expected an EXIF orientation, a whole number from 1 to 8; got {values.shown(orientation)}. "
                "If an image has none, use 1: image.getexif().get(0x0112, 1)."
            )
        return self if known == 1 else self._stepped(*upright(known, self.size_hw), f"exif orientation {known}")

    def normalize(self) -> Frame:
        """Coordinates as fractions of the height and the width: the whole frame is (0, 0, 1, 1)."""
        height, width = self.size_hw
        return self._stepped((1, 1), ExactMap(Line.ratio(1, height), Line.ratio(1, width)), "normalize")

    normalise = normalize  # the other spelling of the same

    def affine(
        self,
        size_hw: tuple[int, int],
        scale_yx: _Pair,
        shift_yx: _Pair,
        *,
        name: str = "affine",
    ) -> Frame:
        """Any step that acts on each axis separately: coordinates become `scale_yx * old + shift_yx`.

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
        return self._stepped(size_hw, exact_map(scale_yx, shift_yx), name)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers and strings, for JSON; `from_dict` reads it back, and the frames are equal."""
        root, *steps = self.chain
        written = [records.written(step.size_hw, step._step, step.name) for step in steps]
        return {"id": root.id, "name": root.name, "size_hw": list(root.size_hw), "steps": written}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Frame:
        """The frame whose `to_dict` this is.

        Raises:
            FrameError: RA107, for anything else, with what is wrong.

        Example:
            >>> frame = Frame.image((480, 640)).resize((800, 1066))
            >>> Frame.from_dict(frame.to_dict()) == frame
            True
        """
        size_hw, name, identity, steps = records.read(record)
        frame = cls.image(size_hw, name=name, id=identity)
        for step in steps:
            frame = frame._stepped(*step)
        return frame

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        if self._hash != other._hash:
            return False
        for one, two in zip(self._upwards(), other._upwards(), strict=False):
            if one is two:
                return True
            if one._parts() != two._parts():
                return False
        return True

    def __hash__(self) -> int:
        return self._hash

    def __copy__(self) -> Frame:
        return self

    def __deepcopy__(self, memo: object) -> Frame:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        root, *steps = self.chain
        return _restored, (root.size_hw, root.name, root.id, [(step.size_hw, step.name, step._step) for step in steps])

    def __str__(self) -> str:
        said = [f"{frame.name} {frame.size_hw[0]}x{frame.size_hw[1]}" for frame in self.chain]
        if len(said) > _MOST_SHOWN:
            half = _MOST_SHOWN // 2
            said[half:-half] = [f"({len(said) - 2 * half} more)"]
        return " > ".join(said)

    def __repr__(self) -> str:
        return f"Frame({self})"

    def _repr_html_(self) -> str:
        """The steps, what each does to coordinates, and where the image lies in the last, for a notebook."""
        chain = self.chain
        shown = chain if len(chain) <= html.MOST_ROWS else chain[: html.MOST_ROWS - 1] + chain[-1:]
        rows = (
            (f.name, f"{f.size_hw[0]} x {f.size_hw[1]}", *(("", "") if f.parent is None else f._step.words()))
            for f in shown
        )
        table = html.table(("step", "height x width", "x becomes", "y becomes"), rows, len(chain) - len(shown))
        if self.parent is None:
            return html.block(table)
        height, width = self.root.size_hw
        image_xyxy = self.root.map_to(self).boxes(torch.tensor([[0.0, 0.0, width, height]]))
        said = html.line(f"This frame, and in orange all of {self.root.name}:")
        return html.block(table, said, html.outlines(self.size_hw, image_xyxy.tolist()))

    def _stepped(self, size_hw: tuple[int, int], step: ExactMap, name: str) -> Frame:
        return Frame(size_hw, name, self.id, self, step)

    def _way(self) -> ExactMap:
        """The map from the image to this frame, composed when it is first asked for, onto what is known."""
        if self._from_image is None:
            new = list(takewhile(lambda frame: frame._from_image is None, self._upwards()))[::-1]
            known = _frame(new[0].parent)._from_image
            steps = [known or SAME, *(frame._step for frame in new)]
            object.__setattr__(self, "_from_image", composed(steps))
        return self._from_image or SAME

    def _parts(self) -> tuple[Any, ...]:
        """All that equal frames have in common, but their parents."""
        return self.size_hw, self.id, self._step, self.parent is None

    def _upwards(self) -> Iterator[Frame]:
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent


def _restored(
    size_hw: tuple[int, int], name: str, id: str, steps: Sequence[tuple[tuple[int, int], str, ExactMap]]
) -> Frame:
    """The frame that was pickled, whose parents would be a recursion."""
    frame = Frame(size_hw, name, id)
    for size_hw, name, step in steps:
        frame = Frame(size_hw, name, id, frame, step)
    return frame


def _frame(given: Any) -> Frame:
    if not isinstance(given, Frame):
        raise FrameError(
            f"RA107: expected a Frame; got {values.shown(given)}. For an image: Frame.image((height, width))."
        )
    return given


def _no_path(source: Frame, target: Frame) -> str:
    roots = source.root, target.root
    alike = roots[0].size_hw == roots[1].size_hw and roots[0].id != roots[1].id
    return (
        f"RA107: expected two frames of one image; got [{source}] and [{target}], made from different images with "
        f"the ids {roots[0].id!r} and {roots[1].id!r}"
        + (", though of the same size" if alike else "")
        + (
            ". Make both from one frame: photo = Frame.image(size_hw), then photo.resize(...) and so on. If one "
            'image was loaded twice, give both the same id: Frame.image(size_hw, id="its file name").'
        )
    )
