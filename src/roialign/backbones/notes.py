"""What there is to say about a traced backbone beyond its table: disagreements, and what depends on the image size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from roialign.backbones.result import Method, pair
from roialign.backbones.structure import Level, field_centre
from roialign.geometry.grid import FeatureGrid

_TOLERANCE = 1e-3  # pixels

OtherSize = tuple[tuple[int, int], Mapping[str, Level]]
"""An image size (height, width) at which offsets are others, and the maps there."""

_Note = tuple[str, str] | None  # what holds, and the numbers of one map


def about(
    levels: Mapping[str, Level],
    grids: Mapping[str, FeatureGrid],
    methods: Mapping[str, Mapping[str, Method]],
    image_hw: tuple[int, int],
    one_size: str | None,
    other: OtherSize | None,
) -> tuple[str, ...]:
    """The notes on all maps, one for each thing that holds, with the maps that it holds of."""
    said = [f"The sizes of the maps were not compared with those of a larger image: {one_size}."] if one_size else []
    makers: list[Callable[[str], _Note]] = [
        lambda key: _unknown(levels[key]),
        lambda key: _not_divisible(grids[key], image_hw),
        lambda key: _other_size(levels[key], key, other),
        lambda key: _branches(levels[key]),
        lambda key: _shapes(grids[key], methods[key]),
        lambda key: _measured(levels[key], methods[key]),
        lambda key: _inferred(grids[key], image_hw),
    ]
    for make in makers:
        found: dict[str, dict[str, list[str]]] = {}
        for key in grids:
            note = make(key)
            if note is not None:
                found.setdefault(note[0], {}).setdefault(note[1], []).append(key)
        said += [f"{sentence}: {_listed(details)}." for sentence, details in found.items()]
    return tuple(said)


def _listed(details: Mapping[str, Sequence[str]]) -> str:
    """`names: detail`, the names of maps that share a detail together."""
    return "; ".join(f"{', '.join(names)}: {detail}" for detail, names in details.items())


def _unknown(level: Level) -> _Note:
    if level.unknown is None:
        return None
    return "The structure is unknown; stride and offset are from the other methods", level.unknown


def _not_divisible(grid: FeatureGrid, image_hw: tuple[int, int]) -> _Note:
    parts = {
        f"{size} pixels, {cells} cells of {stride:g}": None
        for size, cells, stride in zip(image_hw, grid.size_hw, grid.stride_yx, strict=True)
        if abs(cells * stride - size) > _TOLERANCE
    }
    return ("The image's size is not a multiple of the stride", " and ".join(parts)) if parts else None


def _other_size(level: Level, key: str, other: OtherSize | None) -> _Note:
    if other is None or not moved(level, other[1].get(key)):
        return None
    (height, width), there = other
    what = f"The offset depends on the image size (TensorFlow's SAME padding does so); at {height} x {width} it is"
    return what, str(_offset(there[key]))


def moved(here: Level, there: Level | None) -> bool:
    """Whether a map's offset is known at two sizes and not the same."""
    offsets = _offset(here), None if there is None else _offset(there)
    return None not in offsets and offsets[0] != offsets[1]


def _offset(level: Level) -> str | None:
    return None if level.y is None or level.x is None else pair((level.y.offset, level.x.offset))


def _branches(level: Level) -> _Note:
    if level.y is None or level.x is None or (level.y.is_even and level.x.is_even):
        return None
    (low_y, high_y), (low_x, high_x) = level.y.offset_range, level.x.offset_range
    what = "Branches of different offsets meet, or cells lie unevenly; offset and px off are the finest branch's"
    centre = field_centre(level)
    also = f", the receptive field's centre {pair(centre)}" if centre is not None else ""
    return f"{what}, the range is", f"{pair((low_y, low_x))} to {pair((high_y, high_x))}{also}"


def _shapes(grid: FeatureGrid, methods: Mapping[str, Method]) -> _Note:
    found = methods["shapes"]
    if isinstance(found, str) or _close(found["stride_yx"], grid.stride_yx, 0.02):
        return None
    return "The stride depends on the image size; at a much larger image it is on average", pair(found["stride_yx"])


def _close(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    return all(math.isclose(p, q, rel_tol=tolerance, abs_tol=_TOLERANCE) for p, q in zip(a, b, strict=True))


def _measured(level: Level, methods: Mapping[str, Method]) -> _Note:
    found = methods.get("measured")
    if not isinstance(found, dict) or level.y is None or level.x is None:
        return None
    axes = (level.y, level.x)
    inside = all(
        a.offset_range[0] - _TOLERANCE <= value <= a.offset_range[1] + _TOLERANCE
        for a, value in zip(axes, found["offset_yx"], strict=True)
    )
    if inside and _close(found["stride_yx"], (level.y.stride, level.x.stride), 1e-6):
        return None
    return (
        "The gradient disagrees with the structure",
        f"stride {pair(found['stride_yx'])}, offset {pair(found['offset_yx'])}",
    )


def _inferred(grid: FeatureGrid, image_hw: tuple[int, int]) -> _Note:
    """torchvision's MultiScaleRoIAlign rounds the ratio of sizes to a power of two."""
    inferred = [2.0 ** -round(math.log2(cells / size)) for cells, size in zip(grid.size_hw, image_hw, strict=True)]
    if _close(inferred, grid.stride_yx, 1e-6):
        return None
    return "torchvision's MultiScaleRoIAlign would infer another stride", pair(inferred)
