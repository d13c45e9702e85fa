"""The way to a map layer by layer: what each operator does to stride, offset and receptive field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from roialign.backbones.fields import Field
from roialign.backbones.fit import AxisStructure, summary
from roialign.backbones.record import Entry, Ref

_SILENT = {  # they move elements about or act on each, so they change no position
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "detach", "alias", "clone", "_to_copy",
    "unsqueeze", "squeeze", "unbind", "split", "split_with_sizes", "select",
}  # fmt: skip


@dataclass(frozen=True)
class LayerStep:
    """One operator that changes where cells lie, and where they lie after it.

    Convention: (y, x), in pixels of the image that entered the backbone; receptive fields count padding.

    Args:
        module: the path of the module that ran it, "" for the backbone itself.
        operator: ATen's name, without the namespace.
        kernel, stride, padding, dilation: its options, None if it has none.
        size_hw: cells after it.
        stride_yx, offset_yx: accumulated.
        receptive_field_hw: accumulated; None along an axis that is mixed as a whole.
    """

    module: str
    operator: str
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    padding: tuple[int, ...] | None
    dilation: tuple[int, ...] | None
    size_hw: tuple[int, int]
    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float]
    receptive_field_hw: tuple[float | None, float | None]


class Layers:
    """Collects the steps of a run, and leaves out operators that change nothing."""

    def __init__(self) -> None:
        self.steps: list[LayerStep] = []
        self._known: WeakKeyDictionary[Field, tuple[AxisStructure, AxisStructure] | None] = WeakKeyDictionary()

    def __call__(self, entry: Entry, inputs: list[Field], out: Field) -> None:
        name = entry.function._schema.name.partition("::")[2].removesuffix("_")
        if name in _SILENT or any(field is out for field in inputs):
            return
        after = self._summary(out)
        if after is None or any(self._summary(field) == after for field in inputs):
            return
        y, x = after
        self.steps.append(
            LayerStep(
                entry.path,
                name,
                _kernel(entry),
                _numbers(entry.arguments.get("stride")),
                _numbers(entry.arguments.get("padding")),
                _numbers(entry.arguments.get("dilation")),
                (y.cells, x.cells),
                (y.stride, x.stride),
                (y.offset, x.offset),
                (y.extent, x.extent),
            )
        )

    def _summary(self, field: Field) -> tuple[AxisStructure, AxisStructure] | None:
        if field not in self._known:
            self._known[field] = _both(field)
        return self._known[field]


def _both(field: Field) -> tuple[AxisStructure, AxisStructure] | None:
    if field.unknown or any(len(axis) != 1 for axis in field.axes):
        return None
    y, x = (summary(axis[0]) for axis in field.axes)
    return (y, x) if y is not None and x is not None else None


def _kernel(entry: Entry) -> tuple[int, ...] | None:
    weight = entry.arguments.get("weight")
    if isinstance(weight, Ref) and len(weight.shape) > 2:
        return weight.shape[2:]
    return _numbers(entry.arguments.get("kernel_size"))


def _numbers(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return tuple(value)
    return None
