"""Pooling with grids: no spatial_scale, any stride and offset, one level or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from roialign.errors import BatchIndexError, FeatureMapError, FrameError, LevelError
from roialign.geometry import Boxes, FeatureGrid, Frame
from roialign.ops import calls, validate
from roialign.ops.calls import RoICall
from roialign.ops.multi_scale_roi_align import pool_levels
from roialign.regions.levels import FPNLevels, LevelRule, levels_of

Features = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Grids = FeatureGrid | Sequence[FeatureGrid] | Mapping[str, FeatureGrid]
AnyBoxes = Boxes | Sequence[Boxes] | Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class RegionsCall:
    """One call of `pool_regions`, for those who look at calls; `rois` [K, 5] are in the image that was entered."""

    maps: Sequence[Tensor]
    rois: Tensor
    levels: Tensor
    """int64 [K], which map each box is pooled from."""
    grids: Sequence[FeatureGrid]
    output_size_hw: tuple[int, int]
    sampling_ratio: int
    aligned: bool = True
    as_scales: bool = False
    """Whether the grids are no more than scales that the caller wrote down, to be doubted as `spatial_scale` is."""

    def grid_of(self, level: int) -> FeatureGrid | None:
        """The grid of one map, where it is known to be one."""
        return None if self.as_scales else self.grids[level]

    def of_level(self, level: int) -> RoICall:
        """The call as it is for one map, and for the boxes that are pooled from it."""
        grid, rois = self.grids[level], self.rois[self.levels == level]
        (stride_y, stride_x), even = grid.stride_yx, grid.stride_yx[0] == grid.stride_yx[1]
        conventional = even and (not self.aligned or grid.offset_yx == grid.conventional_offset_yx)
        scale = 1 / stride_x if even else (stride_y * stride_x) ** -0.5
        cells = None if conventional else cells_of(grid, self.aligned)
        options = (self.output_size_hw, scale, self.sampling_ratio, self.aligned)
        operator = "MultiScaleRoIAlign" if self.as_scales and cells is None else "pool_regions"
        return RoICall(self.maps[level], rois, *options, operator=operator, cells=cells)


@overload
def pool_regions(
    features: Features,
    boxes: AnyBoxes,
    output_size: int | tuple[int, int],
    grids: Grids,
    *,
    frames: Frame | Sequence[Frame] | None = ...,
    levels: LevelRule | Tensor = ...,
    sampling_ratio: int = ...,
    return_levels: Literal[False] = ...,
) -> Tensor: ...
@overload
def pool_regions(
    features: Features,
    boxes: AnyBoxes,
    output_size: int | tuple[int, int],
    grids: Grids,
    *,
    frames: Frame | Sequence[Frame] | None = ...,
    levels: LevelRule | Tensor = ...,
    sampling_ratio: int = ...,
    return_levels: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def pool_regions(
    features: Features,
    boxes: AnyBoxes,
    output_size: int | tuple[int, int],
    grids: Grids,
    *,
    frames: Frame | Sequence[Frame] | None = None,
    levels: LevelRule | Tensor = FPNLevels(),  # noqa: B008  a value
    sampling_ratio: int = -1,
    return_levels: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cut a feature of fixed size for each box out of feature maps whose grids are known.

    Convention: boxes are x1, y1, x2, y2, in the image that entered the backbone, or `Boxes` in any frame that is
    connected to it; cell (r, c) of a map is centred at `grid.offset_yx + (r, c) * grid.stride_yx` there. With a grid
    of one stride for both axes and the offset stride / 2 the numbers are those of
    `roi_align(..., spatial_scale=1 / stride, aligned=True)`.

    Computed, differentiable and deterministic as `roi_align` is, all levels in one call.

    Args:
        features: one map [N, C, H, W], or several of one N and C: a list, or a dict as backbones return it.
        boxes: for each image a `Boxes` or a tensor [L, 4], in a list; one `Boxes` if there is one image; or a tensor
            [K, 5] with the batch index in column 0.
        output_size: bins (height, width), or one number for both.
        grids: the grid of each map: from `roialign.trace(backbone, image_size)`, or by hand. Matched by name if
            both are dicts, by position otherwise.
        frames: the frame of each image as it entered the backbone, where `Boxes` are in other frames. By default
            `Boxes` have to be in the frame that entered the backbone, and their frame's size is checked against the
            grids.
        levels: which map each box is pooled from, if there are several: `FPNLevels()`, a tensor [K] of indices
            into `features`, or a function of boxes_xyxy [K, 4] and the list of grids that returns one.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        return_levels: whether to return the levels too.

    Returns:
        [K, C, height, width] in the type of `features`, boxes in the order given; with `return_levels` also the
        levels, int64 [K].

    Raises:
        FrameError: RA107, for boxes in a frame without a path to the grids.
        FeatureMapError: RA106, for maps of other sizes than their grids.
        LevelError: RA401, for maps without a grid, and for missing levels.
        RoIError: for other invalid arguments; see `roialign.errors`.

    Warns:
        RoIWarning: once per line of code, when boxes lie mostly or wholly off the image.

    Example:
        >>> grids = {"c4": FeatureGrid((50, 84), (16.0, 16.0)), "c5": FeatureGrid((25, 42), (32.0, 32.0))}
        >>> features = {name: torch.rand(1, 8, *grid.size_hw) for name, grid in grids.items()}
        >>> photo = Frame.image((480, 640))
        >>> resized = photo.resize((800, 1344))
        >>> boxes = Boxes([[20, 30, 120, 90], [0, 0, 640, 480]], photo)
        >>> pooled, levels = pool_regions(features, boxes, 7, grids, frames=resized, return_levels=True)
        >>> pooled.shape, levels
        (torch.Size([2, 8, 7, 7]), tensor([0, 1]))
    """
    maps, map_grids = match(features, grids)
    rois = rois_of(boxes, maps[0], map_grids, frames)
    pooled, _, chosen = pool(maps, rois, output_size, map_grids, levels, sampling_ratio)
    return (pooled, chosen) if return_levels else pooled


def pool(
    maps: list[Tensor],
    rois: Tensor,
    output_size: Any,
    grids: list[FeatureGrid],
    levels: LevelRule | Tensor,
    sampling_ratio: int,
    aligned: bool = True,
    as_scales: bool = False,
    without_features: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool `rois` [K, 5], which are in the image that entered the backbone: features, coverage and levels of each.

    Without `aligned`, cells are read as in `roi_align(aligned=False)`: no shift, and no box below one cell. `as_scales`
    is for who looks at calls; see `RegionsCall`. With `without_features` they have no channels.
    """
    size_hw, _, ratio = validate.check_options(output_size, 1.0, sampling_ratio)
    validate.check_local([*maps, rois])
    levels = levels_of(levels, rois[:, 1:], grids)
    cells = [number for grid in grids for number in cells_of(grid, aligned)]
    read = [one.new_empty(one.shape[0], 0, *one.shape[2:]) for one in maps] if without_features else maps
    features, coverage = pool_levels(
        read,
        rois,
        levels,
        cells,
        size_hw,
        ratio,
        not aligned,
        lambda: RegionsCall(maps, rois, levels, grids, size_hw, ratio, aligned, as_scales),
        lambda coverage, numbers: _off_the_image(numbers, coverage, grids),
    )
    return features, coverage, levels


def cells_of(grid: FeatureGrid, aligned: bool) -> tuple[float, float, float, float]:
    """Scale and shift of rows and columns: cell = (coordinate - offset) / stride."""
    (stride_y, stride_x), (offset_y, offset_x) = grid.stride_yx, grid.offset_yx or grid.conventional_offset_yx
    if not aligned:
        offset_y = offset_x = 0.0
    return 1 / stride_y, offset_y / stride_y, 1 / stride_x, offset_x / stride_x


def match(features: Features, grids: Grids) -> tuple[list[Tensor], list[FeatureGrid]]:
    """The maps and the grid of each, in the order of the maps."""
    maps, listed = _listed(features, Tensor), _listed(grids, FeatureGrid)
    if maps is None:
        raise FeatureMapError(
            f"RA306: expected a feature map [N, C, H, W], or several in a list or a dict; got "
            f"{validate.describe(features)}. Pass what the backbone returns."
        )
    if listed is None or not all(isinstance(grid, FeatureGrid) for grid in listed):
        wrong = grids if listed is None else next(grid for grid in listed if not isinstance(grid, FeatureGrid))
        raise LevelError(
            f"RA401: expected a FeatureGrid for each feature map, alone, in a list or in a dict; got "
            f"{validate.describe(wrong)}. Trace the backbone: roialign.trace(backbone, image_size=images.shape[-2:])."
        )
    if isinstance(features, Mapping) and isinstance(grids, Mapping):
        missing = [name for name in features if name not in grids]
        if missing:
            raise LevelError(
                f"RA401: expected a grid for each feature map; got none for {missing[0]!r}, only for "
                f"{', '.join(map(repr, grids))}. Give both the backbone's names, or select maps: {{name: "
                "features[name] for name in grids}."
            )
        listed = [grids[name] for name in features]
    if len(maps) != len(listed):
        raise LevelError(
            f"RA401: expected a grid for each feature map; got {len(maps)} maps and {len(listed)} grids. Give both "
            "as dicts with the backbone's names, or as lists in the same order."
        )
    for index, (one, grid) in enumerate(zip(maps, listed, strict=True)):
        validate.check_input(one)
        if tuple(one.shape[2:]) != grid.size_hw:
            raise FeatureMapError(
                f"RA106: expected map {index} to have the {grid.size_hw[0]} x {grid.size_hw[1]} cells of its grid; "
                f"got {list(one.shape)}. The grid belongs to another image size or layer: trace the backbone at the "
                "size of the images, roialign.trace(backbone, image_size=images.shape[-2:])."
            )
    return maps, listed


def _listed(value: Any, single: type) -> list[Any] | None:
    """One value, several in a list or in a dict, as a list; None for anything else."""
    if isinstance(value, single):
        return [value]
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else None


def rois_of(
    boxes: AnyBoxes, map_like: Tensor, grids: Sequence[FeatureGrid], frames: Frame | Sequence[Frame] | None
) -> Tensor:
    """Boxes as rois [K, 5] in the image that entered the backbone, in the type that is computed in."""
    if isinstance(boxes, Boxes):
        boxes = [boxes]
    if not isinstance(boxes, (list, tuple)) or not any(isinstance(some, Boxes) for some in boxes):
        return validate.as_rois(boxes, map_like)
    entered = [frames] if isinstance(frames, Frame) else frames
    if not (entered is None or (isinstance(entered, (list, tuple)) and all(isinstance(one, Frame) for one in entered))):
        raise FrameError(
            "RA107: expected frames, the Frame of each image as it entered the backbone; got "
            f"{validate.describe(frames)}. Use frames=[photo.resize((height, width)), ...]; see roialign.Frame."
        )
    if len(boxes) > map_like.shape[0] or (entered is not None and len(entered) != len(boxes)):
        raise BatchIndexError(
            f"RA208: expected Boxes, and a frame, for each of the {map_like.shape[0]} images; got {len(boxes)} Boxes"
            + (f" and {len(entered)} frames." if entered is not None else ".")
        )
    rows = []
    for image, some in enumerate(boxes):
        if not isinstance(some, Boxes):
            raise FrameError(
                f"RA107: expected Boxes for every image, since the first ones are; got {validate.describe(some)} for "
                f"image {image}. Use Boxes(values, frame)."
            )
        here = some.to(entered[image]) if entered is not None else _in_the_image(some, image, grids)
        values = here.boxes_xyxy.to(map_like.device, validate.compute_dtype(map_like))
        rows.append(torch.cat([values.new_full((values.shape[0], 1), image), values], 1))
    return torch.cat(rows)


def _in_the_image(boxes: Boxes, image: int, grids: Sequence[FeatureGrid]) -> Boxes:
    """`boxes`, whose frame has to be of the size that the grids cover."""
    for grid in grids:
        covered = zip(boxes.frame.size_hw, grid.size_hw, grid.stride_yx, strict=True)
        if any(abs(size - cells * stride) >= stride for size, cells, stride in covered):
            height, width = grid.image_size_hw
            raise FrameError(
                f"RA107: expected boxes in the image that entered the backbone, about {height:g} x {width:g} pixels; "
                f"got Boxes for image {image} in {boxes.frame}. Say how that image was made from this one: "
                f"frames=[photo.resize(({height:.0f}, {width:.0f})), ...]; see roialign.Frame."
            )
    return boxes


def _off_the_image(rois: Tensor, coverage: Tensor, grids: Sequence[FeatureGrid]) -> Callable[[], str] | None:
    """What to say of boxes that lie off the image."""
    height, width = (max(grid.image_size_hw[axis] for grid in grids) for axis in (0, 1))
    off = calls.lie_beyond((rois[:, 1:3] + rois[:, 3:5]).detach() / 2, (width, height), coverage)
    if not bool(off.any()):
        return None
    row = int(off.nonzero()[0])
    values = ", ".join(f"{value:g}" for value in rois[row, 1:].tolist())
    return lambda: (
        f"RA107: {int(off.sum())} of {len(rois)} boxes lie off the image of about {height:g} x {width:g} pixels that "
        f"entered the backbone, so their features are zero or nearly zero; the first is boxes[{row}] = [{values}]. "
        "If they belong to the image before it was resized or padded, use Boxes(values, frame) and frames=...; see "
        "roialign.Frame."
    )
