"""The second method: mean strides, from the sizes of the maps at a larger image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from roialign.backbones.layout import Layout
from roialign.backbones.sandbox import Sandbox, first_line
from roialign.errors import FeatureMapError

_GROWTHS = (20160, 20480)  # pixels, tried in turn: multiples of 2^6, 9, 5 and 7, so of most strides; and of 2^12 and 5


def mean_strides(
    sandbox: Sandbox, image_hw: tuple[int, int], channels: int, layouts: Mapping[str, Layout]
) -> dict[str, tuple[float, float]] | str:
    """Pixels of the image per cell that a larger image adds; a str says why no larger image is taken."""
    in_tokens = any(layout.kind == "tokens" for layout in layouts.values())
    runs = _runs(sandbox, image_hw, channels, at_once=not in_tokens)
    if isinstance(runs, str):
        return runs
    growth, taller, wider = runs
    strides = {}
    for name, layout in layouts.items():
        grown = [_grown(layout, output, axis) for axis, output in enumerate((taller, wider))]
        if not all(grown):
            return "its maps do not grow with the image"
        strides[name] = (growth / grown[0], growth / grown[1])
    return strides


def _runs(sandbox: Sandbox, image_hw: tuple[int, int], channels: int, at_once: bool) -> tuple[int, Any, Any] | str:
    """How much larger images are, what comes of a taller one and a wider one; `at_once`: of one that is both."""
    height, width = image_hw
    failure = ""
    for growth in _GROWTHS:
        taller, wider = (height + growth, width), (height, width + growth)
        try:
            if at_once:
                outputs = sandbox.run((taller[0], wider[1]), channels)
                return growth, outputs, outputs
            return growth, sandbox.run(taller, channels), sandbox.run(wider, channels)
        except Exception as error:  # the module's own, at a size that it does not take
            failure = failure or f"it takes no other image size ({first_line(error)})"
    return failure


def settled(
    sandbox: Sandbox, image_hw: tuple[int, int], channels: int, layouts: Mapping[str, Layout]
) -> dict[str, Layout]:
    """Layouts of maps whose structure is unknown: rows and columns are the dimensions that grow with the image's.

    Those that do not show it stay [N, C, H, W].
    """
    runs = _runs(sandbox, image_hw, channels, at_once=False)
    if isinstance(runs, str):
        return dict(layouts)
    _, taller, wider = runs
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
