"""From an image of a collection to its picture and boxes, in one frame; or the reasons why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roialign.backbones.reading import Picture, read_content
from roialign.errors import RoIError
from roialign.extraction.items import BoxSource, ImageBoxes, ImageRef
from roialign.extraction.outlines import Outline, OutlineInBox, read_outline
from roialign.extraction.store.rows import ErrorRow
from roialign.geometry import Boxes, Frame

NO_BOXES = "NoBoxes"
"""The code of an image in which nothing is marked: it is listed, and no failure."""

_COORDINATES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class Marked:
    """A picture and those of its boxes that can be pooled.

    Convention: boxes are in `frame`, that of the upright picture; they are float64.

    Args:
        image_id: of the image.
        pixels_chw: [3, H, W] from 0 to 1, upright.
        frame: of the pixels.
        boxes: K of them, in `frame`.
        box_ids, columns: of those K boxes.
        box_indices: K places among all boxes of the image.
        masks: what lies within the outlines of those K boxes, None for a box without one; or None where outlines do not
            count.
    """

    image_id: str
    pixels_chw: Tensor
    frame: Frame
    boxes: Boxes
    box_ids: tuple[str, ...]
    box_indices: tuple[int, ...]
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    masks: tuple[OutlineInBox | None, ...] | None = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """What became of an image: a picture with boxes, if any of them can be pooled, and what went wrong."""

    marked: Marked | None
    errors: tuple[ErrorRow, ...] = ()


@dataclass(frozen=True)
class Decode:
    """Reads an image and its boxes: a function of an `ImageRef` that raises nothing.

    Files are read by Pillow, made upright, and scaled to 0 to 1, as `roialign.RegionExtractor` reads them. Boxes are
    taken to the upright picture: where their annotations state the size of the picture that was annotated, that size
    says whether it was the upright or the stored one, and a third size is an error of the image, RA107.

    A box is refused alone: NaN and infinite ones with RA205, empty and inverted ones with RA204, those wholly outside
    the picture with RA209, and with `masked` those whose outline cannot be read, with RA701.

    Args:
        source: of the boxes.
        masked: whether outlines count.

    Example:
        >>> import io
        >>> from roialign.extraction.boxes.made import open_made
        >>> decoded = Decode(open_made("whole"))(ImageRef("a.jpg", "gone/a.jpg"))
        >>> decoded.marked, [(error.image_id, error.code) for error in decoded.errors]
        (None, [('a.jpg', 'FileNotFoundError')])
    """

    source: BoxSource
    masked: bool = False

    def __call__(self, image: ImageRef) -> Decoded:
        try:
            found = self.source.of(image)
            if not found:
                reason = "the annotations do not have this image" if found is None else "nothing is marked in it"
                return Decoded(None, (ErrorRow(image.image_id, None, NO_BOXES, reason),))
            picture = read_content(image.read_bytes(), image.image_id)
            return in_frame(image.image_id, picture, found, self.masked)
        except (RoIError, OSError, MemoryError) as error:
            return Decoded(None, (error_row(image.image_id, error),))


def error_row(image_id: str, error: BaseException) -> ErrorRow:
    """That all of an image failed with `error`."""
    if isinstance(error, RoIError) and error.code:
        return ErrorRow(image_id, None, error.code, str(error).removeprefix(f"{error.code}: "))
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return ErrorRow(image_id, None, type(error).__name__, text)


def in_frame(image_id: str, picture: Picture, found: ImageBoxes, masked: bool) -> Decoded:
    """The picture with those of its boxes that can be pooled, `masked` by their outlines, and why the others cannot.

    Raises:
        FrameError: RA107, if what is marked states another size than the picture's.
    """
    frame, annotated, boxes_xyxy = _frame_of(image_id, picture, found)
    faults = _faults(boxes_xyxy, frame)
    masks: list[OutlineInBox | None] = [None] * len(faults)
    for row, outline in _outlines(found, annotated, faults) if masked else ():
        x1, y1, x2, y2 = boxes_xyxy[row].tolist()
        masks[row] = OutlineInBox(outline, (x1, y1, x2, y2), frame.map_to(annotated))
    good = [index for index, fault in enumerate(faults) if fault is None]
    errors = tuple(
        ErrorRow(image_id, box_id, *fault) for box_id, fault in zip(found.box_ids, faults, strict=True) if fault
    )
    if not good:
        return Decoded(None, errors)
    marked = Marked(
        image_id,
        picture.pixels_chw,
        frame,
        Boxes(boxes_xyxy[good], frame),
        tuple(found.box_ids[index] for index in good),
        tuple(good),
        {name: tuple(values[index] for index in good) for name, values in found.columns.items()},
        tuple(masks[index] for index in good) if masked else None,
    )
    return Decoded(marked, errors)


def _frame_of(image_id: str, picture: Picture, found: ImageBoxes) -> tuple[Frame, Frame, Tensor]:
    """The frame of the upright picture, that of the annotated one, and the boxes in the former as they come."""
    frame = annotated = picture.frame
    if found.size_hw is not None and found.size_hw != frame.size_hw:
        annotated = Frame.image(found.size_hw, name="annotated picture")
        frame = picture.frame_named(annotated, image_id)  # it was the stored one; or RA107
    values = torch.from_numpy(found.boxes_xyxy)
    if found.normalized:
        values = values * _sides(annotated)
    return frame, annotated, annotated.map_to(frame).boxes(values)


def _outlines(
    found: ImageBoxes, annotated: Frame, faults: list[tuple[str, str] | None]
) -> Iterator[tuple[int, Outline]]:
    """The outlines of the boxes without a fault, by row; one that cannot be read is a fault of its box."""
    for row, given in enumerate(found.masks or ()):
        if given is None or faults[row] is not None:
            continue
        try:
            yield row, read_outline(given, annotated.size_hw, found.normalized)
        except ValueError as error:
            faults[row] = ("RA701", f"{error}.")


def _sides(frame: Frame) -> Tensor:
    height, width = frame.size_hw
    return torch.tensor([width, height, width, height], dtype=torch.float64)


def _faults(boxes_xyxy: Tensor, frame: Frame) -> list[tuple[str, str] | None]:
    """Of each box the code and the reason why it cannot be pooled, or None."""
    height, width = frame.size_hw
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    nan = ~boxes_xyxy.isfinite().all(1)
    flat = ~nan & ((x2 <= x1) | (y2 <= y1))
    outside = ~(nan | flat) & ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height))
    faults: list[tuple[str, str] | None] = [None] * len(boxes_xyxy)
    whys = (
        ("RA205", nan, "expected finite coordinates"),
        ("RA204", flat, "expected x1 < x2 and y1 < y2"),
        ("RA209", outside, f"expected a box that has a part in the image of {height} x {width} pixels"),
    )
    for code, which, wanted in whys:
        for row in which.nonzero().flatten().tolist():
            pairs = zip(_COORDINATES, boxes_xyxy[row].tolist(), strict=True)
            faults[row] = (code, f"{wanted}; got {', '.join(f'{name} = {value:g}' for name, value in pairs)}.")
    return faults
