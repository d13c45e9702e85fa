"""The second method: mean strides, from the sizes of the maps at a larger image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from roialign.backbones.layout import Layout
from roialign.backbones.sandbox import Sandbox, first_line
from roialign.errors import FeatureMapError

_GROWTH = 20160  # pixels; a multiple of 2^6, 9, 5 and 7, so of most strides


def mean_strides(
    sandbox: Sandbox, image_hw: tuple[int, int], channels: int, layouts: Mapping[str, Layout]
) -> dict[str, tuple[float, float]] | str:
    """Pixels of the image per cell that a larger image adds; a str says why no larger image is taken."""
    taller, wider = (image_hw[0] + _GROWTH, image_hw[1]), (image_hw[0], image_hw[1] + _GROWTH)
    try:
        if any(layout.kind == "tokens" for layout in layouts.values()):
            outputs = [sandbox.run(size, channels) for size in (taller, wider)]
        else:
            outputs = [sandbox.run((taller[0], wider[1]), channels)] * 2
    except Exception as error:
        return f"it takes no other image size ({first_line(error)})"
    strides = {}
    for name, layout in layouts.items():
        grown = [_grown(layout, output, axis) for axis, output in enumerate(outputs)]
        if not all(grown):
            return "its maps do not grow with the image"
        strides[name] = (_GROWTH / grown[0], _GROWTH / grown[1])
    return strides


def settled(
    sandbox: Sandbox, image_hw: tuple[int, int], channels: int, layouts: Mapping[str, Layout]
) -> dict[str, Layout]:
    """Layouts of maps whose structure is unknown: rows and columns are the dimensions that grow with the image's.

    Those that do not show it stay [N, C, H, W].
    """
    try:
        taller = sandbox.run((image_hw[0] + _GROWTH, image_hw[1]), channels)
        wider = sandbox.run((image_hw[0], image_hw[1] + _GROWTH), channels)
    except Exception:  # the module's own, at a size that it does not take
        return dict(layouts)
    return {name: _settled(layout, taller, wider) for name, layout in layouts.items()}


def _settled(layout: Layout, taller: Any, wider: Any) -> Layout:
    shape = (layout.channels, *layout.size_hw)
    try:
        shapes = [layout.pick(outputs).shape[1:] for outputs in (taller, wider)]
    except (FeatureMapError, LookupError, TypeError):
        return layout
    rows, columns = ([d for d in range(3) if len(other) == 3 and other[d] > shape[d]] for other in shapes)
    if len(rows) != 1 or len(columns) != 1 or rows == columns:
        return layout
    letters = {rows[0]: "H", columns[0]: "W"}
    kind = "N" + "".join(letters.get(d, "C") for d in range(3))
    return replace(layout, kind=kind, size_hw=(shape[rows[0]], shape[columns[0]]), channels=shape[kind.index("C") - 1])


def _grown(layout: Layout, outputs: Any, axis: int) -> float:
    """Rows (axis 0) or columns (axis 1) that were added."""
    try:
        output: Tensor = layout.pick(outputs)
    except (FeatureMapError, LookupError, TypeError):
        return 0.0
    if layout.kind == "tokens":
        added = output.shape[layout.token_dim] - layout.prefix - layout.size_hw[0] * layout.size_hw[1]
        return added / layout.size_hw[1 - axis]
    return float(output.shape[layout.kind.index("HW"[axis])] - layout.size_hw[axis])
