"""Checks of the map's axes: RA303, RA304 and RA305. Each is a pure function of the evidence.

They decide by the sizes alone: what the image (or the grid) says that the map should be, and what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from roialign.doctor.evidence import COMMON_STRIDES, Evidence, call_line
from roialign.doctor.findings import Finding, Fix

_MOST_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8, 9)  # class, distillation and register tokens
_LEAST_CHANNELS = 32
_CHANNEL_MULTIPLE = 8  # numbers of channels are multiples of it, sizes of maps need not be


@dataclass(frozen=True)
class _Misread:
    """What the axes of the map really are."""

    code: str
    input: Tensor
    line: str
    """The features as they should be passed, as code."""
    evidence: str
    decide: str | None = None


def channels_last(known: Evidence) -> Finding | None:
    """RA303: [N, H, W, C] read as [N, C, H, W]."""
    return _finding(known, _channels_last(known))


def transposed(known: Evidence) -> Finding | None:
    """RA304: [N, C, W, H] read as [N, C, H, W]."""
    return _finding(known, None if _channels_last(known) else _transposed(known))


def tokens(known: Evidence) -> Finding | None:
    """RA305: tokens that were not turned into a grid."""
    return _finding(known, None if _channels_last(known) or _transposed(known) else _tokens(known))


def misread(known: Evidence) -> bool:
    """Whether the map's axes are not what the call takes them for, so that nothing else can be concluded."""
    return bool(_channels_last(known) or _transposed(known) or _tokens(known))


def _finding(known: Evidence, found: _Misread | None) -> Finding | None:
    if found is None:
        return None
    size_hw = (found.input.shape[2], found.input.shape[3])
    call = known.call.with_(input=found.input, spatial_scale=_scale_of(known, size_hw))
    code = call_line(call).replace("features", found.line, 1)
    fix: Fix = known.fix("input", None, code, call)
    return Finding(found.code, found.evidence, tuple(range(len(known.call.rois))), fix, decide=found.decide)


def _channels_last(known: Evidence) -> _Misread | None:
    _, height, width, channels = known.call.input.shape
    if channels < _LEAST_CHANNELS or channels % _CHANNEL_MULTIPLE:
        return None
    if _reference(known):
        if not _matches(known, (height, width)) or _belongs_rather(known, (height, width)):
            return None
        how = f"{_what_is_known(known)} needs a map of {height} x {width}, which are axes 1 and 2"
    else:
        if not _unmistakably_last(known):
            return None
        how = (
            f"{height} x {width} x {channels} is the shape of a map of {height} x {width} with {channels} channels, "
            "and all boxes lie within it"
        )
    evidence = (
        f"The features {list(known.call.input.shape)} are read as {height} channels of {width} x {channels} cells, but "
        f"{how}: the channels are last."
    )
    return _Misread(
        "RA303", known.call.input.permute(0, 3, 1, 2), "features.permute(0, 3, 1, 2)", evidence, _decide(known)
    )


def _unmistakably_last(known: Evidence) -> bool:
    """Whether the shape alone tells, as [1, 14, 14, 384] does, and the boxes agree."""
    _, height, width, channels = known.call.input.shape
    x, y = known.furthest_xy
    scale = known.call.spatial_scale
    return (
        height % _CHANNEL_MULTIPLE != 0
        and height > 4
        and channels % _LEAST_CHANNELS == 0
        and channels >= max(64, 4 * width)
        and 0.4 <= height / width <= 2.5
        and x * scale <= 1.05 * width
        and y * scale <= 1.05 * height
    )


def _transposed(known: Evidence) -> _Misread | None:
    height, width = known.call.map_size_hw
    if not _reference(known) or not _matches(known, (width, height)) or _belongs_rather(known, (width, height)):
        return None
    evidence = (
        f"The map has {height} rows and {width} columns, but {_what_is_known(known)} needs {width} rows and {height} "
        "columns: its height and width are swapped."
    )
    decide = "If it was made from tokens by reshape or unflatten, pass the height before the width there."
    call = known.call.with_(input=known.call.input.transpose(2, 3), spatial_scale=_scale_of(known, (width, height)))
    as_called = float(known.call.off_the_map(known.coverage).float().mean())
    if not known.well_placed(call) and as_called == 0:
        return None  # the boxes say that the map is right, and image_size was given as (width, height)
    if as_called == 0:
        decide += " The boxes fit both ways: if image_size was given as (width, height), that is the mistake instead."
    return _Misread("RA304", call.input, "features.transpose(2, 3)", evidence, decide)


def _tokens(known: Evidence) -> _Misread | None:
    """Tokens in one row or column, with class tokens among them, or with the channels last."""
    features, scale = known.call.input, known.call.spatial_scale
    if known.image_size_hw is None or _belongs(known, known.call.map_size_hw):
        return None
    image_h, image_w = known.image_size_hw
    if not 2 / min(image_h, image_w) <= scale <= 0.5:  # from two patches an image to patches of two pixels
        return None
    patch = round(1 / scale)
    grid_h, grid_w = int(image_h // patch), int(image_w // patch)
    if min(grid_h, grid_w) < 2 or abs(patch * scale - 1) > 0.01 or image_h % patch or image_w % patch:
        return None
    _, channels, rows, columns = features.shape
    unflatten = f".unflatten(2, ({grid_h}, {grid_w}))"
    for extra in _MOST_EXTRA_TOKENS:
        count, skip = grid_h * grid_w + extra, f"[:, :, {extra}:]" if extra else ""
        if rows * columns == count and (min(rows, columns) == 1 or extra == 1):
            flat, line = features.flatten(2), f"features.flatten(2){skip}{unflatten}"
        elif channels == 1 and rows == count and columns >= _LEAST_CHANNELS:
            flat, line = features[:, 0].transpose(1, 2), f"features[:, 0].transpose(1, 2){skip}{unflatten}"
        else:
            continue
        more = f" and {extra} more, such as a class token" if extra else ""
        evidence = (
            f"An image of {image_h:g} x {image_w:g} in patches of {patch} gives {grid_h} x {grid_w} = "
            f"{grid_h * grid_w} tokens{more}; the features {list(features.shape)} hold {count} in a shape of {rows} x "
            f"{columns}, which is not that grid."
        )
        decide = "Tokens that are not patches are assumed to come first; check where the model puts them."
        return _Misread(
            "RA305", flat[:, :, extra:].unflatten(2, (grid_h, grid_w)), line, evidence, decide if extra else None
        )
    return None


def _reference(known: Evidence) -> bool:
    return known.grid is not None or known.image_size_hw is not None


def _what_is_known(known: Evidence) -> str:
    if known.grid is not None:
        return "the grid"
    image_h, image_w = known.image_size_hw or known.frame_hw
    stride = f" at stride {1 / known.call.spatial_scale:g}" if known.call.spatial_scale != 1 else ""
    return f"an image of {image_h:g} x {image_w:g}{stride}"


def _belongs(known: Evidence, size_hw: tuple[int, int]) -> bool:
    """Whether a map of this size may well be what was expected, at whatever stride."""
    if known.grid is not None:
        return size_hw == tuple(known.grid.size_hw)
    image_h, image_w = known.image_size_hw or known.frame_hw
    ratio_y, ratio_x = image_h / size_hw[0], image_w / size_hw[1]
    return abs(ratio_y / ratio_x - 1) * max(size_hw) <= 2 or any(_explains(known, s, size_hw) for s in COMMON_STRIDES)


def _is_inferred(known: Evidence) -> bool:
    """Whether the scale was inferred from the size of the map itself, which tells nothing of it."""
    return known.around is not None and known.around.pyramid is not None


def _scale_of(known: Evidence, size_hw: tuple[int, int]) -> float:
    """The scale of the call, or, where it was inferred from misread axes, that of a map of the right size."""
    strides = [stride for stride in COMMON_STRIDES if _explains(known, stride, size_hw)]
    return 1 / strides[0] if _is_inferred(known) and strides else known.call.spatial_scale


def _belongs_rather(known: Evidence, other_hw: tuple[int, int]) -> bool:
    """Whether the map as it was read may be what was expected, and no worse than one of another size would be."""
    size_hw, scale = known.call.map_size_hw, known.call.spatial_scale
    if known.grid is None and scale < 1 and _explains(known, 1 / scale, other_hw):
        return any(_explains(known, stride, size_hw) for stride in (1 / scale, *COMMON_STRIDES))
    return _belongs(known, size_hw)


def _matches(known: Evidence, size_hw: tuple[int, int]) -> bool:
    """Whether a map of this size is just what was expected, and spatial_scale agrees."""
    if known.grid is not None:
        return size_hw == tuple(known.grid.size_hw)
    if known.call.spatial_scale != 1 and not _is_inferred(known):
        return known.call.spatial_scale < 1 and _explains(known, 1 / known.call.spatial_scale, size_hw)
    if _is_inferred(known):
        return any(_explains(known, stride, size_hw) for stride in COMMON_STRIDES)
    boxes_fit = known.furthest_xy[0] <= 1.05 * size_hw[1] and known.furthest_xy[1] <= 1.05 * size_hw[0]
    return bool(known.low.any()) and boxes_fit and any(_explains(known, s, size_hw) for s in COMMON_STRIDES)


def _explains(known: Evidence, stride: float, size_hw: tuple[int, int]) -> bool:
    image_hw = known.image_size_hw or known.frame_hw
    return all(abs(image / stride - cells) < 1 for image, cells in zip(image_hw, size_hw, strict=True))


def _decide(known: Evidence) -> str | None:
    if _reference(known):
        return None
    return "Pass image_size=(H, W), the size of the tensor that entered the backbone, to be sure."
