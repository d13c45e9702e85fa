"""Lines of code to paste that fit what the caller holds: a list of boxes or rows with an index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.ops.calls import RoICall

IN_ORDER = "b.unflatten(1, (2, 2)).sort(dim=1).values.flatten(1)"
"""Boxes `b` with their corners in order, to be offered with `ONLY_IF_EXCHANGED`."""
ONLY_IF_EXCHANGED = (
    "Sorting is right only if two corners of a box were swapped. If y is measured from the bottom (PDF, maps, "
    "mathematics), it leaves the boxes mirrored: subtract y from the height first. If the last two are a width and a "
    "height it is RA201."
)
_BOXES = re.compile(r"\bb\b")


def paste(call: RoICall, expression: str, values: Sequence[Any] | None = None) -> str:
    """The line that gives the boxes of `call` other coordinates.

    Args:
        call: says in which form the caller holds the boxes.
        expression: other coordinates, from a tensor `b` [L, 4] of the boxes of one image and, where `values` differ
            from image to image, those of that image as `v`, which broadcasts against `b`: "b * v".
        values: one number, or four (one for each coordinate), for each image of the batch.
    """
    if call.boxes_form == "list":
        if values is None:
            return f"boxes = [{expression} for b in boxes]"
        each = _in_words(values)
        return f"boxes = [{_with_values(expression, 'b.new_tensor(v)')} for b, v in zip(boxes, {each})]"
    before = ""
    if values is not None:
        rows = [value if isinstance(value, (list, tuple)) else [value] for value in values]
        before = f"v = boxes.new_tensor({_in_words(rows)})[boxes[:, 0].long()]  # of the image of each row\n"
    if len(_BOXES.findall(expression)) > 1:
        before += "b = boxes[:, 1:]\n"
    else:
        expression = _BOXES.sub("boxes[:, 1:]", expression)
    return f"{before}boxes = torch.cat([boxes[:, :1], {expression}], 1)"


def in_order(boxes_xyxy: Tensor) -> Tensor:
    """What `IN_ORDER` makes of boxes [K, 4]."""
    low, high = boxes_xyxy[:, :2].minimum(boxes_xyxy[:, 2:]), boxes_xyxy[:, :2].maximum(boxes_xyxy[:, 2:])
    return torch.cat([low, high], 1)


def listed(values: Sequence[object]) -> str:
    """Values in words: "a", "a and b", "a, b and c"."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def rows_of(rows: Sequence[int], most: int = 8) -> str:
    """The numbers of rows in words, as "row 3" or "rows 1, 4 and 7"; the first of many."""
    shown = listed([*rows[:most], f"{len(rows) - most} more"] if len(rows) > most else rows)
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}"


def masked_later(rows: Sequence[int]) -> str:
    """What to do with rows that hold no object, in words: their number matters to what follows."""
    them = "its place" if len(rows) == 1 else "their places"
    mask = f" (pooled[{list(rows)}] = 0)" if len(rows) <= 8 else ""
    return f"{rows_of(rows).capitalize()} {'keeps' if len(rows) == 1 else 'keep'} {them}: mask what is pooled{mask}."


def _with_values(expression: str, value: str) -> str:
    return re.sub(r"\bv\b", value, expression)


def _in_words(values: Sequence[Any]) -> str:
    """Numbers, or rows of them, as code."""
    return f"[{', '.join(_in_words(one) if isinstance(one, (list, tuple)) else f'{one:.6g}' for one in values)}]"
