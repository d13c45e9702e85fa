"""Boxes that know which frame their numbers are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.errors import BoxesShapeError, DtypeError, FrameError
from roialign.geometry import checks, formats, html
from roialign.geometry.formats import Order
from roialign.geometry.frame import Frame
from roialign.geometry.values import shown


class Boxes:
    """Boxes of one image: numbers in a frame, convertible to any other frame of that image.

    Convention: x1, y1, x2, y2, x first, continuous: x1 and x2 are edges, so a box is x2 - x1 wide, and the box
    (0, 0, width, height) is all of the frame. Boxes may reach outside and may be of zero size.

    A value, to be replaced rather than changed in place. The numbers are kept as passed, and `boxes_xyxy` computes
    those of the current frame from them, in float64, each time it is read. So a chain of `.to(frame)` rounds once, and
    there and back again gives the same bits. Differentiable; deterministic.

    Args:
        boxes_xyxy: [N, 4], float32 or float64; integers become float32. A tensor, an array or a list of rows.
        frame: the frame that the numbers are in.

    Raises:
        BoxesShapeError: RA210, if they are not rows of four numbers.
        DtypeError: RA109, for float16 and bfloat16.
        BoxesValueError: RA205 for NaN and infinity, RA204 where x1 > x2 or y1 > y2, with the first such row and
            its likely cause.
        FrameError: RA107, if `frame` is not a `Frame`.

    Example:
        >>> photo = Frame.image((480, 640), name="photo")
        >>> boxes = Boxes([[100, 50, 300, 250]], photo)
        >>> boxes.to(photo.resize((960, 1280)).flip_horizontal()).boxes_xyxy
        tensor([[ 680.,  100., 1080.,  500.]])
    """

    __slots__ = ("_frame", "_given_frame", "_given_xyxy")

    def __init__(self, boxes_xyxy: Any, frame: Frame) -> None:
        self._given_xyxy: Tensor = _read(boxes_xyxy, frame, "xyxy")
        self._given_frame: Frame = frame
        self._frame: Frame = frame

    @property
    def boxes_xyxy(self) -> Tensor:
        """[N, 4] in `frame`: x1, y1, x2, y2."""
        if self._frame == self._given_frame:
            return self._given_xyxy
        return self._given_frame.map_to(self._frame).boxes(self._given_xyxy)

    @property
    def frame(self) -> Frame:
        """The frame that `boxes_xyxy` is in."""
        return self._frame

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self._given_xyxy.device

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self._given_xyxy.dtype

    def to(self, target: Frame | torch.device | str | int | torch.dtype) -> Boxes:
        """The same boxes in another frame, on another device, or in the other type.

        Args:
            target: a `Frame` made of the same image, a device, or torch.float32 or torch.float64.

        Raises:
            FrameError: RA107, for a frame of another image.
            DtypeError: RA109, for float16 and bfloat16; RA505, for what is none of these, or a device that torch
                does not know.

        Example:
            >>> photo = Frame.image((480, 640))
            >>> Boxes([[320, 240, 640, 480]], photo).to(photo.normalize()).to(torch.float64).boxes_xyxy
            tensor([[0.5000, 0.5000, 1.0000, 1.0000]], dtype=torch.float64)
        """
        if isinstance(target, Frame):
            if not self._frame.is_connected(target):
                self._frame.map_to(target)  # raises, with the words
            return _boxes(self._given_xyxy, self._given_frame, target)
        if isinstance(target, torch.dtype):
            checks.check_dtype(target)
            return _boxes(self._given_xyxy.to(target), self._given_frame, self._frame)
        try:
            device = torch.device(target)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DtypeError(
                f"RA505: expected a Frame, a device or a type to convert boxes to; got {shown(target)}. A device is "
                f'"cpu" or "cuda:0", a type torch.float64. torch says: {str(error).splitlines()[0]}'
            ) from error
        return _boxes(self._given_xyxy.to(device), self._given_frame, self._frame)

    def clip(self) -> Boxes:
        """Cut off at the edges of the frame; a box wholly outside keeps no area, at the nearest edge.

        Example:
            >>> Boxes([[-5, 10, 900, 20]], Frame.image((480, 640))).clip().boxes_xyxy
            tensor([[  0.,  10., 640.,  20.]])
        """
        height, width = self._frame.size_hw
        boxes = self.boxes_xyxy
        most = boxes.new_tensor([width, height, width, height])
        return _boxes(boxes.clamp(min=0).minimum(most), self._frame, self._frame)

    def __getitem__(self, index: Any) -> Boxes:
        """The boxes at an index, a slice, a list or tensor of indices, or where a mask [N] is true; always Boxes."""
        try:
            rows = self._given_xyxy[index]
        except (TypeError, ValueError, RuntimeError):
            rows = None
        if rows is None or isinstance(index, tuple) or rows.dim() > 2:
            selected = "" if rows is None else f" that selects {list(rows.shape)} of {list(self._given_xyxy.shape)}"
            raise BoxesShapeError(
                "RA210: expected an index of rows: an int, a slice, a mask [N] or indices [M]; got a "
                f"{type(index).__name__}{selected}. For columns use boxes.boxes_xyxy[:, 0]."
            )
        return _boxes(rows.reshape(-1, 4), self._given_frame, self._frame)

    def __len__(self) -> int:
        return self._given_xyxy.shape[0]

    def __iter__(self) -> Iterator[Boxes]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """`boxes_xyxy` for NumPy, without its gradient: `numpy.asarray(boxes)`."""
        array: Any = self.boxes_xyxy.detach().cpu().numpy()
        array = array if dtype is None else array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """`boxes_xyxy` for other libraries, and for `torch.as_tensor(boxes)`."""
        return self.boxes_xyxy.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.boxes_xyxy.__dlpack_device__()

    def __repr__(self) -> str:
        return f"Boxes({len(self)}, {str(self.dtype).removeprefix('torch.')}, in {self._frame})"

    def _repr_html_(self) -> str:
        """The first boxes in their frame and their numbers, for a notebook."""
        shown = self[: html.MOST_ROWS].boxes_xyxy.detach().double().cpu().tolist()
        rows = (
            [str(row), *(f"{value:.6g}" for value in (*box, box[2] - box[0], box[3] - box[1]))]
            for row, box in enumerate(shown)
        )
        table = html.table(("row", "x1", "y1", "x2", "y2", "width", "height"), rows, len(self) - len(shown))
        return html.block(html.line(repr(self)), html.outlines(self._frame.size_hw, shown), table)

    @classmethod
    def cat(cls, parts: Sequence[Boxes]) -> Boxes:
        """All boxes of `parts`, which must be in one frame, in their order.

        Raises:
            FrameError: RA107, if they are not in one frame.
            BoxesShapeError: RA210, if there are no parts, and so no frame.

        Example:
            >>> photo = Frame.image((480, 640))
            >>> Boxes.cat([Boxes([[0, 0, 10, 10]], photo), Boxes([[5, 5, 20, 20]], photo)])
            Boxes(2, float32, in image 480x640)
        """
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Boxes) for part in parts):
            raise BoxesShapeError(
                f"RA210: expected a list of Boxes; got {shown(parts)}. Make Boxes of the numbers, in their frame."
            )
        if not parts:
            raise BoxesShapeError("RA210: expected at least one Boxes; got none. Use Boxes(torch.empty(0, 4), frame).")
        first = parts[0]
        for place, part in enumerate(parts):
            if part._frame != first._frame:
                fix = "Convert them first: part.to(frame)." if first._frame.is_connected(part._frame) else ""
                raise FrameError(
                    f"RA107: expected all boxes in one frame; got [{first._frame}] at place 0 and [{part._frame}] at "
                    f"place {place}. {fix or 'They are of different images: keep one Boxes for each.'}"
                )
        if all(part._given_frame == first._given_frame for part in parts):
            return _boxes(torch.cat([part._given_xyxy for part in parts]), first._given_frame, first._frame)
        return _boxes(torch.cat([part.boxes_xyxy for part in parts]), first._frame, first._frame)

    @classmethod
    def from_xywh(cls, values: Any, frame: Frame) -> Boxes:
        """Boxes from [N, 4] of x, y of the top left corner, width, height."""
        return cls._from(values, frame, "xywh")

    @classmethod
    def from_cxcywh(cls, values: Any, frame: Frame) -> Boxes:
        """Boxes from [N, 4] of x, y of the centre, width, height."""
        return cls._from(values, frame, "cxcywh")

    @classmethod
    def from_yxyx(cls, values: Any, frame: Frame) -> Boxes:
        """Boxes from [N, 4] of y1, x1, y2, x2."""
        return cls._from(values, frame, "yxyx")

    @classmethod
    def from_normalized(cls, values: Any, frame: Frame, order: Order = "xyxy") -> Boxes:
        """Boxes in `frame` from fractions of its width and height: 0 to 1, or past that for what reaches outside.

        Args:
            values: [N, 4], in `order`.
            frame: the image that they are fractions of.
            order: "xyxy", "xywh", "cxcywh" or "yxyx".

        Raises:
            BoxesValueError: RA107, if they can only be pixels.

        Example:
            >>> Boxes.from_normalized([[0.5, 0.5, 0.5, 0.5]], Frame.image((480, 640)), "cxcywh").boxes_xyxy
            tensor([[160., 120., 480., 360.]])
        """
        _check_order(order)
        _check_frame(frame)
        rows = checks.as_rows(values, order)
        checks.check_fractions(rows, frame)
        return cls._from(rows, frame.normalize(), order).to(frame)

    from_normalised = from_normalized  # the other spelling of the same

    @classmethod
    def from_coco(cls, annotations: Any, frame: Frame) -> Boxes:
        """Boxes from COCO's x, y, width, height in pixels, whose first pixel begins at 0.

        Args:
            annotations: the annotations of one image, dicts with a "bbox", or the values [N, 4].
            frame: the image.

        Example:
            >>> Boxes.from_coco([{"bbox": [10, 20, 30, 40], "category_id": 1}], Frame.image((480, 640))).boxes_xyxy
            tensor([[10., 20., 40., 60.]])
        """
        listed = isinstance(annotations, (list, tuple)) and all(isinstance(one, Mapping) for one in annotations)
        return cls._from([one["bbox"] for one in annotations] if listed else annotations, frame, "xywh")

    @classmethod
    def from_yolo(cls, values: Any, frame: Frame) -> Boxes:
        """Boxes from YOLO's labels without their class: x, y of the centre, width, height, as fractions of `frame`."""
        return cls.from_normalized(values, frame, "cxcywh")

    @classmethod
    def from_voc(cls, values: Any, frame: Frame) -> Boxes:
        """Boxes from Pascal VOC's xmin, ymin, xmax, ymax: pixels counted from 1, the last one included.

        The edges are xmin - 1, ymin - 1, xmax, ymax: the pixel (1, 1, 1, 1) becomes the box (0, 0, 1, 1).
        """
        _check_frame(frame)
        return cls(formats.from_voc(checks.as_rows(values)), frame)

    def to_xywh(self) -> Tensor:
        """[N, 4] of x, y of the top left corner, width, height."""
        return formats.from_xyxy(self.boxes_xyxy, "xywh")

    def to_cxcywh(self) -> Tensor:
        """[N, 4] of x, y of the centre, width, height."""
        return formats.from_xyxy(self.boxes_xyxy, "cxcywh")

    def to_yxyx(self) -> Tensor:
        """[N, 4] of y1, x1, y2, x2."""
        return formats.from_xyxy(self.boxes_xyxy, "yxyx")

    def to_normalized(self, order: Order = "xyxy") -> Tensor:
        """[N, 4] in `order` as fractions of the frame's width and height."""
        _check_order(order)
        return formats.from_xyxy(self.to(self._frame.normalize()).boxes_xyxy, order)

    to_normalised = to_normalized

    def to_coco(self) -> list[dict[str, list[float]]]:
        """COCO's annotations: a dict with "bbox", x, y, width, height, for each box."""
        return [{"bbox": row} for row in self.to_xywh().tolist()]

    def to_yolo(self) -> Tensor:
        """[N, 4] of YOLO's x, y of the centre, width, height, as fractions of the frame."""
        return self.to_normalized("cxcywh")

    def to_voc(self) -> Tensor:
        """[N, 4] of Pascal VOC's xmin, ymin, xmax, ymax: counted from 1, the last one included; not rounded."""
        return formats.to_voc(self.boxes_xyxy)

    @classmethod
    def _from(cls, values: Any, frame: Frame, order: Order) -> Boxes:
        return _boxes(formats.to_xyxy(_read(values, frame, order), order), frame, frame)


def _boxes(given_xyxy: Tensor, given_frame: Frame, frame: Frame) -> Boxes:
    """Boxes of values that are known to be good."""
    boxes = Boxes.__new__(Boxes)
    boxes._given_xyxy, boxes._given_frame, boxes._frame = given_xyxy, given_frame, frame
    return boxes


def _read(values: Any, frame: Frame, order: Order) -> Tensor:
    _check_frame(frame)
    rows = checks.as_rows(values, order)
    checks.check_values(rows, order, frame)
    return rows


def _check_order(order: Any) -> None:
    if not isinstance(order, str) or order not in formats.ORDERS:
        raise BoxesShapeError(f"RA210: expected order, one of {', '.join(formats.ORDERS)}; got {shown(order)}.")


def _check_frame(frame: Any) -> None:
    if not isinstance(frame, Frame):
        raise FrameError(
            f"RA107: expected a Frame, which the numbers are in; got {shown(frame)}. For pixels of an image use "
            "Frame.image((height, width))."
        )
