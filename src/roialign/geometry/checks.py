"""What numbers can be boxes, and what is said of those that cannot: the row, the value, the likely cause."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign import errors
from roialign.geometry.formats import Order, to_xyxy
from roialign.geometry.frame import Frame

_WHOLE_PIXELS = {torch.float16: 2048, torch.bfloat16: 256}  # up to here; smaller types: up to 16 at most
_COLUMNS = {
    "xyxy": ("x1", "y1", "x2", "y2"),
    "xywh": ("x", "y", "w", "h"),
    "cxcywh": ("cx", "cy", "w", "h"),
    "yxyx": ("y1", "x1", "y2", "x2"),
}
_FARTHEST_FRACTION = 10.0  # no box reaches so far past its image; nearly all boxes in pixels do


def as_rows(values: Any, order: Order = "xyxy") -> Tensor:
    """`values` as a float32 or float64 tensor [N, 4]; integers become float32.

    Raises:
        BoxesShapeError: RA210, if they are not rows of four numbers.
        DtypeError: RA109 for half precision, RA505 for what is not real numbers.
    """
    wanted = f"boxes [N, 4] ({', '.join(_COLUMNS[order])})"
    if isinstance(values, Tensor) and hasattr(values, "canvas_size"):
        raise errors.BoxesShapeError(
            f"RA210: expected plain {wanted}; got torchvision's {type(values).__name__}, which has its own format "
            "and canvas. Use roialign.integrations.torchvision.boxes_from(values, frame)."
        )
    try:
        rows = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise errors.BoxesShapeError(
            f"RA210: expected {wanted}; got a {type(values).__name__}. Pass a tensor, an array or a list of rows of "
            "numbers; torch.stack(rows) makes a tensor of a list of tensors."
        ) from error
    if rows.layout != torch.strided or rows.is_nested:
        kind, dense = ("nested", "torch.cat(values.unbind())") if rows.is_nested else (rows.layout, "values.to_dense()")
        raise errors.DtypeError(f"RA505: expected dense {wanted}; got a {kind} tensor. Use {dense}.")
    if rows.dim() == 1 and rows.numel() == 0:
        rows = rows.reshape(0, 4)
    got = f"a {str(rows.dtype).removeprefix('torch.')} tensor {list(rows.shape)}"
    if rows.dim() != 2 or rows.shape[1] != 4:
        raise errors.BoxesShapeError(f"RA210: expected {wanted}; got {got}. {_shape_hint(rows)}")
    whole = not (rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool)
    rows = rows.to(torch.float32) if whole else rows
    check_dtype(rows.dtype)
    return rows


def check_dtype(dtype: torch.dtype) -> None:
    """Raise unless boxes can be kept in `dtype`."""
    name = str(dtype).removeprefix("torch.")
    if dtype.is_floating_point and dtype.itemsize < 4:
        raise errors.DtypeError(
            f"RA109: expected float32 or float64 boxes; got {name}, which skips whole pixels past "
            f"{_WHOLE_PIXELS.get(dtype, 16)}. Keep boxes in float32 from the start; boxes.float() cannot undo the "
            "rounding."
        )
    if dtype not in (torch.float32, torch.float64):
        raise errors.DtypeError(f"RA505: expected float32 or float64 boxes; got {name}. Pass coordinates.")


def _shape_hint(rows: Tensor) -> str:
    if rows.dim() == 1 and rows.shape[0] == 4:
        return "For a single box pass values[None]."
    if rows.dim() == 2 and rows.shape[1] == 5:
        return "Leave out the column that is not a coordinate: values[:, 1:] or values[:, :4]."
    if rows.dim() == 3 and rows.shape[2] == 4:
        return "Make Boxes for each image, in its own frame: [Boxes(rows, frame) for rows, frame in ...]."
    return "Reshape to one box in each row: values.reshape(-1, 4)."


def check_values(rows: Tensor, order: Order, frame: Frame) -> None:
    """Raise for the first row of `rows` [N, 4], in `order`, that is no box; reads the values, so it waits for them.

    Raises:
        BoxesValueError: RA205 for NaN and infinity, RA204 for a box that ends before it begins.
    """
    values = rows.detach()
    finite = values.isfinite()
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        bad = int((~finite.all(1)).sum())
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates; got {_COLUMNS[order][column]} = {float(values[row, column])} in row "
            f"{row} of {_of(len(rows), bad)}, for [{frame}]. Leave such rows out: values[values.isfinite().all(1)]. "
            "If a model made them, look for NaN in its outputs."
        )
    boxes = to_xyxy(values, order)
    inverted = (boxes[:, :2] > boxes[:, 2:]).any(1)
    if inverted.any():
        row = int(inverted.nonzero()[0])
        named = zip(_COLUMNS[order], values[row].tolist(), strict=True)
        shown = ", ".join(f"{name} = {value:g}" for name, value in named)
        wanted = "w >= 0 and h >= 0" if order in ("xywh", "cxcywh") else "x1 <= x2 and y1 <= y2"
        raise errors.BoxesValueError(
            f"RA204: expected {wanted}; got {shown} in row {row} of {_of(len(rows), int(inverted.sum()))}, for "
            f"[{frame}]. {_cause(values, order, frame, boxes)}"
        )


def check_fractions(rows: Tensor, frame: Frame) -> None:
    """Raise if `rows`, said to be fractions of the image's sides, are pixels."""
    far = rows.detach().abs().amax(1) > _FARTHEST_FRACTION
    if far.any():
        row = int(far.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA107: expected fractions of the width and the height, from 0 to 1; got {rows[row].tolist()} in row "
            f"{row} of {_of(len(rows), int(far.sum()))}, for [{frame}]. These are pixels: use Boxes(values, frame), "
            "Boxes.from_xywh or Boxes.from_cxcywh."
        )


def _of(rows: int, bad: int) -> str:
    return f"{rows} ({bad} such)" if bad > 1 else f"{rows}"


def _cause(values: Tensor, order: Order, frame: Frame, boxes: Tensor) -> str:
    """What inverted rows most likely are: the reading under which all of them are boxes within the frame."""
    if order in ("xywh", "cxcywh"):
        return "If these are corners use Boxes(values, frame); leave out empty boxes."
    swapped = values[:, [1, 0, 3, 2]]
    if _fits(to_xyxy(values, "xywh"), frame):
        return "They read as x, y, width, height (RA201): use Boxes.from_xywh(values, frame)."
    if _fits(to_xyxy(swapped, "xywh"), frame):
        return "They read as y, x, height, width (RA203): use Boxes.from_xywh(values[:, [1, 0, 3, 2]], frame)."
    if _fits(to_xyxy(values, "cxcywh"), frame):
        return "They read as centre x, centre y, width, height (RA202): use Boxes.from_cxcywh(values, frame)."
    if _fits(values[:, [0, 2, 1, 3]], frame):
        return "They read as x1, x2, y1, y2: use Boxes(values[:, [0, 2, 1, 3]], frame)."
    flat_x, flat_y = boxes[:, 0] <= boxes[:, 2], boxes[:, 1] <= boxes[:, 3]
    if bool(flat_x.all()) and not bool(flat_y.any()):
        return "In all rows only y is swapped: if y is measured upwards, use height - y."
    return "If only the corners are in the wrong order, sort them; empty boxes are best left out."


def _fits(boxes: Tensor, frame: Frame) -> bool:
    height, width = frame.size_hw
    inside = (boxes >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
    return bool((inside & (boxes[:, :2] <= boxes[:, 2:]).all(1)).all())
