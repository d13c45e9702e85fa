"""trace: from a backbone to the grid of each of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from roialign.backbones import notes
from roialign.backbones.layout import Layout
from roialign.backbones.result import BackboneTrace, Method
from roialign.backbones.sandbox import Sandbox, attributes_kept, first_line
from roialign.backbones.scrambled import Scrambled
from roialign.backbones.shapes import mean_strides, settled
from roialign.backbones.sizes import are_those_of_large_images, growths, resizes, whole_cells
from roialign.backbones.structure import Level, OutOfOrder, Structure, field_centre, structure_in
from roialign.errors import TraceError
from roialign.geometry.grid import FeatureGrid, OffsetKind

_MOST_PERIOD = 1024  # pixels


def trace(
    backbone: nn.Module,
    image_size: tuple[int, int],
    *,
    offset: OffsetKind = "convention",
    channels: int | None = None,
    measured: bool = True,
) -> BackboneTrace:
    """Find where the cells of each of a backbone's feature maps are in the image.

    Convention: sizes are (height, width), strides and offsets (y, x) in pixels of the image that enters the
    backbone, pixel (0, 0) covering [0, 1) x [0, 1). Maps are named by the keys of dicts and the indices of
    sequences, joined by dots where outputs are nested; a single tensor is called "0".

    Three methods are checked against each other: the structure (positions are carried through each operator that the
    backbone runs; exact), the sizes of the maps at other image sizes, and the gradient of a cell with respect to the
    image. Where they disagree `notes` says so. The backbone is run on tensors without values in eval mode, and is left
    unchanged: its mode, parameters, buffers and the random state. Deterministic.

    Args:
        backbone: any module that takes an image [N, C, H, W] and returns a map, or sequences or dicts of maps:
            [N, C, H, W], [N, H, W, C], or tokens [N, L, C]. On any device, in any floating type.
        image_size: (H, W) of the image.
        offset: which offset the grids use: "convention" (half a stride, which is what `aligned=True` means),
            "structural" or "calibrated".
        channels: of the image; by default 3, or as many as its first convolution takes if the backbone does not run on
            3.
        measured: whether to measure the gradient, too, as far as that takes a few seconds: `methods` says where it
            would take longer. False is faster.

    Returns: A mapping from the name of each map to its FeatureGrid, in the backbone's order. Outputs that are not maps
        of the image are in `left_out`, as are maps whose cells are not in the order of the image, which are in
        `scrambled`, too.

    Raises:
        TraceError: if the backbone does not run on such an image, or none of its outputs is a map whose cells are in
            the order of the image.
        FeatureMapError: if the requested offset does not exist.

    Source: Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019, for
    receptive fields.

    Example:
        >>> from torch import nn
        >>> stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1))
        >>> grid = trace(stem, image_size=(64, 96))["0"]
        >>> grid.size_hw, grid.stride_yx, grid.structural_offset_yx, grid.receptive_field_hw
        ((16, 24), (4.0, 4.0), (0.5, 0.5), (11, 11))
    """
    backbone = _checked(backbone)
    image_hw = _checked_size(image_size)
    with Sandbox(backbone) as sandbox:
        found, wanted = _structure(sandbox, image_hw, [channels] if channels else _image_channels(backbone))
        found = _with_settled_layouts(sandbox, image_hw, wanted, found)
        strides = mean_strides(sandbox, image_hw, wanted, _layouts(found))
        other = None if isinstance(strides, str) else _otherwise(sandbox, image_hw, wanted, found)
    by_gradient = _measure(backbone, image_hw, wanted, found) if measured else {}
    misplaced = _misplaced(backbone, image_hw, wanted, found) if measured else {}
    result = _assembled(type(backbone).__name__, image_hw, found, strides, by_gradient, other, misplaced)
    return result.with_offset(offset) if offset != "convention" else result


def trace_again(
    backbone: nn.Module, image_size: tuple[int, int], before: BackboneTrace, *, offset: OffsetKind = "convention"
) -> BackboneTrace:
    """`trace` at another size of a backbone that was traced before: its structure, which depends on the size, alone.

    What `before` says of large images holds for this size, too.
    """
    backbone = _checked(backbone)
    found = _structure_at(backbone, image_size)
    if found is None or list(found.levels) != list(before.layouts):
        return trace(backbone, image_size, offset=offset, measured=False)
    at_large = {name: before.methods[name]["shapes"] for name in before}
    unknown = next((method for method in at_large.values() if isinstance(method, str)), None)
    strides = {name: method["stride_yx"] for name, method in at_large.items() if not isinstance(method, str)}
    result = _assembled(type(backbone).__name__, image_size, found, unknown or strides, {}, None, {})
    return result.with_offset(offset) if offset != "convention" else result


def strides_hold_at_any_size(backbone: nn.Module, traced: BackboneTrace) -> bool:
    """Whether the strides of a trace are those of any image size, though offsets may be others.

    They depend on the size where a map is resized to the size of another. So they are looked at once more at three
    sizes next to one another, where maps of whole cells, of a cell begun and of a cell cut off give such resizing
    different factors.
    """
    if not are_those_of_large_images(traced):
        return False
    if not resizes(traced.layers):
        return True
    period = whole_cells(traced)
    if period > _MOST_PERIOD:
        return False
    middle = [period * math.ceil(size / period) for size in traced.image_size_hw]
    for more in (0, 1, -1):
        found = _structure_at(_checked(backbone), (middle[0] + more, middle[1] + more))
        if found is None or list(found.levels) != list(traced):
            return False
        for name, level in found.levels.items():
            if level.y is None or level.x is None or (level.y.stride, level.x.stride) != traced[name].stride_yx:
                return False
    return True


def _structure_at(backbone: nn.Module, image_hw: tuple[int, int]) -> Structure | None:
    """The structure at a size that the backbone may not take."""
    with Sandbox(backbone) as sandbox:
        try:
            found, channels = _structure(sandbox, image_hw, _image_channels(backbone))
        except TraceError:
            return None
        return _with_settled_layouts(sandbox, image_hw, channels, found)


def _checked(backbone: Any) -> nn.Module:
    if not isinstance(backbone, nn.Module):
        raise TraceError(
            f"RA308: expected a torch.nn.Module that maps an image to feature maps; got {type(backbone).__name__}. "
            "Pass the module itself, not its output or its name."
        )
    compiled = getattr(backbone, "_orig_mod", backbone)
    return compiled if isinstance(compiled, nn.Module) else backbone


def _checked_size(image_size: Any) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, Sequence) else ()
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise TraceError(
            f"RA308: expected image_size=(height, width) of positive integers; got {image_size!r}. "
            "For an image tensor [N, C, H, W] pass image_size=tuple(image.shape[-2:])."
        )
    return size[0], size[1]


def _image_channels(backbone: nn.Module) -> list[int]:
    """What to try: 3, then what the first convolution takes, which need not be the image."""
    convolutions = (m for m in backbone.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    first = next(convolutions, None)
    return [3] if first is None or first.in_channels == 3 else [3, first.in_channels]


def _structure(sandbox: Sandbox, image_hw: tuple[int, int], channels: Sequence[int]) -> tuple[Structure, int]:
    """The structure with the first number of channels that the backbone runs with, and that number."""
    failures: dict[int, str] = {}
    for number in channels:
        try:
            return structure_in(sandbox, image_hw, number), number
        except TraceError:
            raise
        except Exception as error:
            failures[number] = first_line(error) + (f" in {sandbox.failed_in}" if sandbox.failed_in else "")
            cause = error
    raise TraceError(_why_not_run(image_hw, failures)) from cause


def _why_not_run(image_hw: tuple[int, int], failures: Mapping[int, str]) -> str:
    height, width = image_hw
    images = " or ".join(f"[N, {channels}, {height}, {width}]" for channels in failures)
    several = len(failures) > 1
    got = "; ".join((f"with {channels} channels " if several else "") + failures[channels] for channels in failures)
    return (
        f"RA308: expected a backbone that runs on an image {images}; got {got}. Check image_size and channels= "
        "(--size and --channels of the command); a forward that branches on values of the image cannot be traced: "
        "trace the part of it that makes the maps."
    )


def _with_settled_layouts(sandbox: Sandbox, image_hw: tuple[int, int], channels: int, found: Structure) -> Structure:
    """Rows and columns found by the maps' sizes where the operators do not say them."""
    unknown = {name: level.layout for name, level in found.levels.items() if level.unknown}
    if not unknown:
        return found
    layouts = settled(sandbox, image_hw, channels, unknown)
    levels = {name: replace(level, layout=layouts.get(name, level.layout)) for name, level in found.levels.items()}
    return replace(found, levels=levels)


def _layouts(found: Structure) -> dict[str, Layout]:
    return {name: level.layout for name, level in found.levels.items()}


def _otherwise(sandbox: Sandbox, image_hw: tuple[int, int], channels: int, found: Structure) -> notes.OtherSize | None:
    """The next larger size at which offsets are others, and the maps there."""
    for growth in growths(found.layers):
        size_hw = image_hw[0] + growth, image_hw[1] + growth
        try:
            levels = structure_in(sandbox, size_hw, channels, layers=False).levels
        except Exception:  # the module's own, at a size that it does not take: there is nothing to compare then
            continue
        if any(notes.moved(level, levels.get(name)) for name, level in found.levels.items()):
            return size_hw, levels
    return None


def _measure(backbone: nn.Module, image_hw: tuple[int, int], channels: int, found: Structure) -> Mapping[str, Any]:
    from roialign.backbones.measure import measure

    with attributes_kept(backbone):
        return measure(backbone, image_hw, channels, _layouts(found), found.work)


def _misplaced(backbone: nn.Module, image_hw: tuple[int, int], channels: int, found: Structure) -> dict[str, str]:
    """The maps of unknown structure whose cells are not in the order of the image, and which is not."""
    unknown = {name: level.layout for name, level in found.levels.items() if level.unknown is not None}
    if not unknown:
        return {}
    from roialign.backbones.measure_order import misplaced_cells

    with attributes_kept(backbone):
        return misplaced_cells(backbone, image_hw, channels, unknown)


def _assembled(
    name: str,
    image_hw: tuple[int, int],
    found: Structure,
    strides: dict[str, tuple[float, float]] | str,
    by_gradient: Mapping[str, Any],
    other: notes.OtherSize | None,
    misplaced: Mapping[str, str],
) -> BackboneTrace:
    grids: dict[str, FeatureGrid] = {}
    methods: dict[str, dict[str, Method]] = {}
    left_out = dict(found.left_out)
    scrambled = {key: _scrambled(one, image_hw) for key, one in found.out_of_order.items()}
    scrambled |= {key: Scrambled(found.levels[key].layout, reason) for key, reason in misplaced.items()}
    left_out |= {key: f"RA311: {one.reason}" for key, one in scrambled.items()}
    for key, level in found.levels.items():
        if key in misplaced:
            continue
        all_methods = _methods(level, strides if isinstance(strides, str) else strides[key], by_gradient.get(key))
        grid = _grid(level, all_methods, image_hw)
        if isinstance(grid, str):
            left_out[key] = grid
        else:
            grids[key], methods[key] = grid, all_methods
    if not grids and scrambled:
        raise _none_in_order(name, scrambled)
    if not grids:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in left_out.items()) or "it returns nothing"
        raise TraceError(
            f"RA308: expected a backbone that returns feature maps; got none: {reasons}. Pass the part before pooling "
            "and classifier, such as timm's features_only=True or torchvision's create_feature_extractor."
        )
    levels = {key: found.levels[key] for key in grids}
    said = notes.about(levels, grids, methods, image_hw, strides if isinstance(strides, str) else None, other)
    whole = {key: _whole(level) for key, level in levels.items()}
    return BackboneTrace(
        name, image_hw, grids, {key: level.layout for key, level in levels.items()}, whole, methods, said,
        left_out, found.layers, scrambled=scrambled,
    )  # fmt: skip


def _scrambled(found: OutOfOrder, image_hw: tuple[int, int]) -> Scrambled:
    grid = None if found.in_order is None else _structural_grid(found.in_order, image_hw)
    return Scrambled(found.layout, found.disorder.where, None if grid is None else found.disorder.index, grid)


def _none_in_order(name: str, scrambled: Mapping[str, Scrambled]) -> TraceError:
    reasons = "; ".join(f"{key}: {one.reason}" for key, one in scrambled.items())
    mended = next((one for one in scrambled.values() if one.grid is not None), None)
    fix = "This is a bug in the backbone; no line of code repairs it"
    if mended is not None:
        line = f", as does: {mended.line}" if mended.line else ""
        fix = f"This is a bug in the backbone; `scrambled` of this error can put a map in order{line}"
    error = TraceError(
        f"RA311: expected maps whose cells are in the order of the image; got from {name}: {reasons}. {fix}."
    )
    error.scrambled = scrambled
    return error


def _methods(level: Level, stride_yx: tuple[float, float] | str, measured: Any) -> dict[str, Method]:
    """What each method found; a str where it found nothing."""
    methods: dict[str, Method] = {
        "structure": level.unknown or "",
        "shapes": stride_yx if isinstance(stride_yx, str) else {"stride_yx": stride_yx},
    }
    if level.y is not None and level.x is not None:
        y, x = level.y, level.x
        methods["structure"] = {"stride_yx": (y.stride, x.stride), "offset_yx": (y.offset, x.offset)}
    if isinstance(measured, str):
        methods["measured"] = measured
    elif measured is not None:
        methods["measured"] = {"stride_yx": measured.stride_yx, "offset_yx": measured.offset_yx}
    return methods


def _grid(level: Level, methods: Mapping[str, Method], image_hw: tuple[int, int]) -> FeatureGrid | str:
    grid = _structural_grid(level, image_hw)
    if grid is None:
        layout = level.layout
        known = next((m for m in (methods.get("measured"), methods["shapes"]) if isinstance(m, dict)), None)
        if known is None:
            return f"its structure is unknown: {level.unknown}"
        return FeatureGrid(
            layout.size_hw, known["stride_yx"], structural_offset_yx=known.get("offset_yx"), channels=layout.channels
        )
    return grid


def _structural_grid(level: Level, image_hw: tuple[int, int]) -> FeatureGrid | None:
    y, x, layout = level.y, level.x, level.layout
    if y is None or x is None:
        return None
    field_hw = tuple(size if a.extent is None else round(a.extent) for a, size in zip((y, x), image_hw, strict=True))
    return FeatureGrid(
        layout.size_hw,
        (y.stride, x.stride),
        structural_offset_yx=(y.offset, x.offset),
        receptive_field_hw=(field_hw[0], field_hw[1]),
        channels=layout.channels,
        offset_range_yx=(y.offset_range, x.offset_range),
        receptive_field_centre_yx=field_centre(level),
    )


def _whole(level: Level) -> tuple[bool, bool]:
    return level.y is not None and level.y.extent is None, level.x is not None and level.x.extent is None
