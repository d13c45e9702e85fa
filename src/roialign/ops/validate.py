"""What an RoI operator accepts, and what it says of everything else.

Shapes and types are looked at before every call. Values (finite coordinates, image indices) are looked
at by the kernels as they read them; `check_values` then finds the words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from roialign import errors

MAX_ADAPTIVE_GRID = 1 << 24  # more samples than this cannot be counted in float32
MAX_SAMPLING_RATIO = 128  # the reference reads all samples of a bin at once
MAX_ROUNDED_CELL = 1 << 30  # boxes that are rounded to cells are counted in int32 by torchvision
_MAX_SIDE = 1 << 31
_MAX_SCALE = 3e38  # of float32
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class BoxForm(NamedTuple):
    """How an operator's boxes are written: what they are called, and their coordinates."""

    name: str
    sides: str

    @property
    def columns(self) -> int:
        """Coordinates of a box, without the image index."""
        return self.sides.count(",") + 1

    @property
    def wanted(self) -> str:
        """What to pass, in words."""
        return (
            f"{self.name} as a tensor [K, {self.columns + 1}] (image index, {self.sides}) or a list with one tensor "
            f"[L, {self.columns}] for each image"
        )


BOXES = BoxForm("boxes", "x1, y1, x2, y2")
BOXES_3D = BoxForm("boxes", "x1, y1, z1, x2, y2, z2")
SEGMENTS = BoxForm("segments", "start, end")


def compute_dtype(input: Tensor) -> torch.dtype:
    """The type that an operator computes in: float64 for float64 features, float32 for all others."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def describe(value: Any) -> str:
    """`value` in a message: shape and type of a tensor, type and value of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, float, str)) else f"a {type(value).__name__}"


def check_input(input: Any) -> None:
    """Raise unless `input` is a non-empty floating-point feature map [N, C, H, W]."""
    wanted = "RA306: expected a feature map [N, C, H, W] with H >= 1 and W >= 1; got"
    if not isinstance(input, Tensor):
        raise errors.FeatureMapError(f"{wanted} {describe(input)}. Pass a torch.Tensor.")
    if input.dim() == 3:
        raise errors.FeatureMapError(
            f"{wanted} {describe(input)}. One image without a batch axis: input[None]. Tokens [N, L, C] of a "
            "transformer: drop the class token, then tokens.transpose(1, 2).unflatten(2, (H, W))."
        )
    if input.dim() != 4 or input.shape[2] == 0 or input.shape[3] == 0:
        raise errors.FeatureMapError(f"{wanted} {describe(input)}. Look at the layer that made it.")
    _check_features_dtype(input)


def check_features(input: Any, layout: str) -> None:
    """Raise unless `input` is floating point and has the axes of `layout`, such as "N, C, L", none after C empty."""
    axes = layout.split(", ")
    fits = isinstance(input, Tensor) and input.dim() == len(axes) and 0 not in input.shape[2:]
    if not fits:
        sizes = " and ".join(f"{axis} >= 1" for axis in axes[2:])
        hint = "Look at the layer that made it."
        if isinstance(input, Tensor) and input.dim() == len(axes) - 1:
            hint = "One image without a batch axis: input[None]."
        raise errors.FeatureMapError(f"RA306: expected features [{layout}] with {sizes}; got {describe(input)}. {hint}")
    _check_features_dtype(input)


def _check_features_dtype(input: Tensor) -> None:
    if input.dtype not in _DTYPES or input.layout != torch.strided:
        raise errors.DtypeError(
            "RA505: expected dense floating-point features (float64, float32, float16 or bfloat16); got "
            f"{describe(input)}. Use input.float(), or input.to_dense() if it is sparse."
        )


def check_options(output_size: Any, spatial_scale: Any, sampling_ratio: Any) -> tuple[tuple[int, int], float, int]:
    """The output size as (height, width), the scale and the ratio, once all three are found usable."""
    scale, ratio = check_scale(spatial_scale), check_ratio(sampling_ratio)
    size_hw = (output_size, output_size) if isinstance(output_size, (Integral, torch.SymInt)) else output_size
    if not isinstance(size_hw, Sequence) or len(size_hw) != 2 or not all(map(is_side, size_hw)):
        raise errors.OutputSizeError(
            "RA506: expected output_size, one integer of at least 1 or a pair (height, width) of them; got "
            f"{output_size!r}. Use output_size=7 for 7 x 7 bins."
        )
    return cast(tuple[int, int], tuple(size_hw)), scale, ratio


def check_scale(spatial_scale: Any) -> float:
    """The scale as a float, once it is found usable."""
    number = isinstance(spatial_scale, (Real, torch.SymFloat))
    if not number or not 0 < spatial_scale <= _MAX_SCALE:
        raise errors.ScaleError(
            f"RA105: expected spatial_scale, a finite number above zero; got {describe(spatial_scale)}. It is "
            "1 / stride: cells of the feature map per pixel of the image that the boxes are in, such as 1 / 16."
        )
    return cast(float, spatial_scale if isinstance(spatial_scale, (float, torch.SymFloat)) else float(spatial_scale))


def check_ratio(sampling_ratio: Any) -> int:
    """The sampling ratio, -1 where it is adaptive, once it is found usable."""
    whole = isinstance(sampling_ratio, (Integral, torch.SymInt)) and not isinstance(sampling_ratio, bool)
    if not whole or sampling_ratio > MAX_SAMPLING_RATIO:
        raise errors.OutputSizeError(
            f"RA506: expected sampling_ratio, an integer of at most {MAX_SAMPLING_RATIO}; got "
            f"{describe(sampling_ratio)}. Use 2, or -1 to let the box's size decide."
        )
    ratio = sampling_ratio if isinstance(sampling_ratio, (int, torch.SymInt)) else int(sampling_ratio)
    return cast(int, max(ratio, -1))


def is_side(side: Any) -> bool:
    """Whether `side` can be a number of bins."""
    whole = isinstance(side, (Integral, torch.SymInt))
    return whole and bool(1 <= side < _MAX_SIDE)


def check_operator(
    map_like: Tensor, size_nhw: tuple[int, int, int], rois: Tensor, size_hw: Sequence[int], scale: float, ratio: int
) -> None:
    """Raise unless a registered operator was given what `as_rois` and `check_options` make of its arguments.

    `map_like` is what has the type of the features: they or their gradient.
    """
    check_options(tuple(size_hw), scale, ratio)
    _check_tensors(map_like, size_nhw, rois, BOXES)


def check_operator_3d(
    volume_like: Tensor,
    size_ndhw: Sequence[int],
    rois: Tensor,
    size_dhw: Sequence[int],
    scales_zyx: Sequence[float],
    ratio: int,
) -> None:
    """`check_operator` for volumes."""
    for side, scale in zip(size_dhw, scales_zyx, strict=True):
        check_options((side, side), scale, ratio)
    _check_tensors(volume_like, size_ndhw, rois, BOXES_3D)


def _check_tensors(map_like: Tensor, size: Sequence[int], rois: Tensor, form: BoxForm) -> None:
    """`size` is the number of images, then that of cells along each axis."""
    images, *cells = size or (-1,)
    axes = 2 + form.columns // 2
    if map_like.dim() != axes or images < 0 or min(cells, default=0) < 1 or map_like.dtype not in _DTYPES:
        raise errors.FeatureMapError(
            f"RA306: expected {axes} axes and at least one cell along each; got {describe(map_like)} for "
            f"{tuple(size)}. Call the public function of this operator, which checks its arguments."
        )
    columns = 1 + form.columns
    if rois.dim() != 2 or rois.shape[1] != columns:
        raise errors.BoxesShapeError(
            f"RA207: expected rois [K, {columns}]; got {describe(rois)}. Call the public function of this operator."
        )
    if rois.dtype != compute_dtype(map_like) or rois.device != map_like.device:
        raise errors.DtypeError(
            f"RA505: expected rois of {compute_dtype(map_like)} on {map_like.device}; got {describe(rois)} on "
            f"{rois.device}. Call the public function of this operator, which converts boxes."
        )


def as_rois(boxes: Any, input: Tensor, form: BoxForm = BOXES) -> Tensor:
    """Boxes in either of torchvision's two forms as rois [K, 1 + columns] of the type that is computed in."""
    if isinstance(boxes, Tensor):
        _check_tensor(boxes, input, form)
        return boxes.to(compute_dtype(input))
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(image_boxes, Tensor) for image_boxes in boxes):
        convert = "torch.from_numpy" if type(boxes).__module__ == "numpy" else "torch.tensor"
        raise errors.BoxesShapeError(
            f"RA210: expected {form.wanted}; got {describe(boxes)}. Use {convert}({form.name})."
        )
    _check_list(boxes, input, form)
    if not boxes:
        return input.new_empty(0, 1 + form.columns, dtype=compute_dtype(input))
    coordinates = torch.cat([image_boxes.to(compute_dtype(input)) for image_boxes in boxes])
    counts = [image_boxes.shape[0] for image_boxes in boxes]
    images = torch.cat([coordinates.new_full((count, 1), image) for image, count in enumerate(counts)])
    return torch.cat([images, coordinates], dim=1)


def _check_tensor(boxes: Tensor, input: Tensor, form: BoxForm) -> None:
    name, columns = form.name, form.columns
    if boxes.dim() == 2 and boxes.shape[1] == columns:
        raise errors.BoxesShapeError(
            f"RA207: expected {form.wanted}; got {describe(boxes)}: the column with the image index is missing. "
            f"For {name} of one image pass a list: [{name}]."
        )
    if boxes.dim() != 2 or boxes.shape[1] != 1 + columns:
        one_row = f"Use {name}[None] for a single row."
        raise errors.BoxesShapeError(
            f"RA210: expected {form.wanted}; got {describe(boxes)}. "
            + (one_row if boxes.dim() == 1 else f"Flatten it to rows: {name}.reshape(-1, {1 + columns}).")
        )
    _check_dtype(boxes, input, name)


def _check_list(boxes: Sequence[Tensor], input: Tensor, form: BoxForm) -> None:
    name, columns = form.name, form.columns
    for image, image_boxes in enumerate(boxes):
        if image_boxes.dim() != 2 or image_boxes.shape[1] != columns:
            raise errors.BoxesShapeError(
                f"RA210: expected {form.wanted}; got {describe(image_boxes)} for image {image}. In a list the "
                f"position is the image index: leave that column out, and use torch.empty(0, {columns}) for no {name}."
            )
        _check_dtype(image_boxes, input, name)
    if len(boxes) > input.shape[0]:
        raise errors.BatchIndexError(
            f"RA208: expected at most one list of {name} for each of the {input.shape[0]} images in the batch; got "
            f"{len(boxes)} lists. If all {name} are of one image, pass [torch.cat({name})]."
        )


def _check_dtype(boxes: Tensor, input: Tensor, name: str) -> None:
    if boxes.device != input.device:
        raise errors.DtypeError(
            f"RA505: expected {name} on the device of the features, {input.device}; got them on {boxes.device}. "
            f'Use {name}.to("{input.device}").'
        )
    if not boxes.is_floating_point():
        raise errors.DtypeError(f"RA505: expected floating-point {name}; got {describe(boxes)}. Use {name}.float().")
    half_features = input.dtype in (torch.float16, torch.bfloat16)
    fits = boxes.dtype == input.dtype or (half_features and boxes.dtype == torch.float32)
    if not fits and not torch.is_autocast_enabled(input.device.type):
        wanted = str(compute_dtype(input)).removeprefix("torch.")
        raise errors.DtypeError(
            f"RA505: expected {wanted} {name} for {str(input.dtype).removeprefix('torch.')} features; got "
            f"{describe(boxes)}. Use {name}.to(torch.{wanted})."
        )


def usable_boxes(
    rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Rows [K] of `rois` whose coordinates are finite and, under adaptive sampling, can be counted."""
    cells_xyxy = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    return _can_be_sampled(rois, cells_xyxy, (pooled_height, pooled_width), sampling_ratio, not aligned)


def _can_be_sampled(
    rois: Tensor, cells_xyxy: Tensor, pooled_hw: Sequence[int], sampling_ratio: int, widen: bool
) -> Tensor:
    """Rows [K]; `cells_xyxy` were computed in the kernels' order, so that both draw one line."""
    axes = len(pooled_hw)
    sizes = (cells_xyxy[:, axes:] - cells_xyxy[:, :axes]).clamp(min=1.0 if widen else -math.inf)
    grids = (sizes / sizes.new_tensor(pooled_hw[::-1])).ceil().abs()
    countable = grids <= MAX_ADAPTIVE_GRID if sampling_ratio <= 0 else grids.isfinite()
    return rois[:, 1:].detach().isfinite().all(1) & cells_xyxy.isfinite().all(1) & countable.all(1)


def usable_indices(rois: Tensor, images: int) -> Tensor:
    """Rows [K] of `rois` whose first column is the index of an image of the batch."""
    index = rois[:, 0].detach()
    return (index >= 0) & (index < images) & (index == index.floor())


def check_values(images: int, rois: Tensor, *options: Any) -> None:
    """Raise for the first row of `rois` [K, 5] that cannot be sampled; reads the values, so it waits for them.

    `options` are pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned.
    """
    _raise_for_rows(images, rois, usable_boxes(rois, *options))


def check_values_of_cells(images: int, rois: Tensor, spatial_scale: float) -> None:
    """`check_values` for operators that round boxes to cells, which take no samples."""
    cells_xyxy = (rois[:, 1:].detach() * spatial_scale).double()
    _raise_for_rows(images, rois, (cells_xyxy.abs() < MAX_ROUNDED_CELL + 0.5).all(1))


def check_own_channels(input: Tensor, size_hw: Sequence[int], grad: Tensor | None = None) -> None:
    """Raise unless `input` has a channel for each bin of each channel of the output, and `grad` that many channels."""
    bins = size_hw[0] * size_hw[1]
    if input.shape[1] % bins != 0:
        raise errors.OutputSizeError(
            f"RA506: expected channels that are a multiple of the {size_hw[0]} x {size_hw[1]} = {bins} bins, for each "
            f"bin has channels of its own; got {describe(input)}. Use an output_size that divides {input.shape[1]}, or "
            "make the layer before it one of (channels of the output) * height * width channels."
        )
    if grad is not None and (grad.shape[1] * bins != input.shape[1] or grad.dtype != input.dtype):
        raise errors.FeatureMapError(
            f"RA306: expected a gradient of {input.shape[1] // bins} channels in the type of the features, "
            f"{describe(input)}; got {describe(grad)}. It is made by autograd; call the public function."
        )


def check_values_of_segments(images: int, rois: Tensor, *options: Any) -> None:
    """`check_values` for segments that are pooled as the columns of boxes [K, 5]."""
    _raise_for_rows(images, rois[:, [0, 1, 3]], usable_boxes(rois, *options), SEGMENTS)


def check_values_3d(
    images: int,
    rois: Tensor,
    pooled_dhw: Sequence[int],
    scales_zyx: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """`check_values` for boxes of volumes, [K, 7]."""
    scales = rois.new_tensor([*scales_zyx[::-1]] * 2)
    cells = rois[:, 1:].detach() * scales - (0.5 if aligned else 0.0)
    _raise_for_rows(images, rois, _can_be_sampled(rois, cells, pooled_dhw, sampling_ratio, not aligned), BOXES_3D)


def check_maps(maps: Sequence[Tensor], cells: Sequence[float]) -> None:
    """Raise unless `maps` are at least one map [N, C, H, W], all of one type, N and C, with four numbers for each."""
    if not maps or len(cells) != 4 * len(maps):
        raise errors.LevelError(
            f"RA401: expected at least one feature map, with a grid for each; got {len(maps)} maps and {len(cells)} "
            "numbers, which are four for each grid."
        )
    for one in maps:
        if one.dim() != 4 or one.dtype != maps[0].dtype or one.shape[:2] != maps[0].shape[:2]:
            raise errors.FeatureMapError(
                f"RA306: expected feature maps [N, C, H, W] of one type, with the same N and C; got {describe(one)} "
                f"beside {describe(maps[0])}. Pool levels of different depth in calls of their own."
            )


def check_levels(levels: Tensor, count: int, rois: Tensor) -> None:
    """Raise unless `levels` [K] names one of `count` levels for each box; reads the values, so it waits for them."""
    if levels.dtype != torch.int64 or levels.shape != rois.shape[:1] or levels.device != rois.device:
        raise errors.LevelError(
            f"RA401: expected the level of each box, int64 [{len(rois)}] on {rois.device}; got {describe(levels)} on "
            f"{levels.device}. Use levels.long()."
        )
    outside = (levels < 0) | (levels >= count)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise errors.LevelError(
            f"RA401: expected levels from 0 to {count - 1}, one for each feature map; got {int(outside.sum())} rows "
            f"with another, the first levels[{row}] = {int(levels[row])}. Clamp them: levels.clamp(0, {count - 1})."
        )


def check_values_of_levels(
    images: int,
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    pooled_hw: Sequence[int],
    sampling_ratio: int,
    widen: bool,
) -> None:
    """`check_values` for boxes of several maps; `cells` are as `ops.multi_scale_roi_align` takes them."""
    scale_y, shift_y, scale_x, shift_x = rois.new_tensor(cells).view(-1, 4)[levels].unbind(1)
    scales, shifts = (torch.stack([x, y, x, y], 1) for x, y in ((scale_x, scale_y), (shift_x, shift_y)))
    cells_xyxy = rois[:, 1:].detach() * scales - shifts
    _raise_for_rows(images, rois, _can_be_sampled(rois, cells_xyxy, pooled_hw, sampling_ratio, widen))


def _raise_for_rows(images: int, rois: Tensor, usable: Tensor, form: BoxForm = BOXES) -> None:
    """Raise for the first row of `rois` [K, 1 + columns] that is not usable or names no image."""
    name, unusable = form.name, ~usable
    if bool(unusable.any()):
        row = int(unusable.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates that adaptive sampling can count; got {int(unusable.sum())} "
            f"unusable rows of {len(rois)}, the first {name}[{row}] = {row_text(rois, row)}. Look at what made them (a "
            f"division by zero, an exploding regression), or drop them: {name}[{name}.isfinite().all(dim=1)]."
        )
    outside = ~usable_indices(rois, images)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        range_text = f"a whole number from 0 to {images - 1}" if images else "but the batch has no images"
        raise errors.BatchIndexError(
            f"RA206: expected in column 0 the index of an image, {range_text}; got "
            f"{int(outside.sum())} rows of {len(rois)} with another, the first {name}[{row}] = {row_text(rois, row)}. "
            f"Column 0 is the image, then {form.sides}; {name} of one image can be passed as a list: [{name}]."
        )


def row_text(rois: Tensor, row: int) -> str:
    """A row of `rois` in a message."""
    return "[" + ", ".join(f"{value:g}" for value in rois[row].tolist()) + "]"
