"""How much a run computes, counted from its operators, so that what takes too long can be left alone."""

from __future__ import annotations

import math

from roialign.backbones.record import Entry, Tape

_LEFT_OUT = ("softmax", "bmm", "scaled_dot_product")  # attention passes on what it takes when positions are measured


def work_per_pixel(tape: Tape) -> float:
    """Numbers that are computed for each pixel of an image, by convolutions on the mean of their channels."""
    return sum(_work(entry) for entry in tape.entries) / math.prod(tape.image.shape[i] for i in (0, 2, 3))


def _work(entry: Entry) -> int:
    schema = entry.function._schema
    is_view = bool(schema.returns and schema.returns[0].alias_info and not schema.returns[0].alias_info.is_write)
    if is_view or not entry.results or any(name in schema.name for name in _LEFT_OUT):
        return 0
    shape = entry.results[0].shape
    made = math.prod(shape)
    if schema.name != "aten::convolution":
        return made
    weight: tuple[int, ...] = entry.arguments["weight"].shape
    read: tuple[int, ...] = entry.arguments["input"].shape
    groups: int = entry.arguments["groups"]
    return made + math.prod(read) + groups * made // shape[1] * math.prod(weight[2:])
