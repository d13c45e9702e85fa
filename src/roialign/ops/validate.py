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
MAX_MASKED_GRID = 1 << 16  # a mask is looked at for every sample, also off the map
MAX_SAMPLING_RATIO = 128  # the reference reads all samples of a bin at once
_MAX_SIDE = 1 << 31
_MAX_SCALE = 3e38  # of float32
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class BoxForm(NamedTuple):
    """How many numbers an operator's boxes have besides the image index, and their names."""

    columns: int
    names: str

    @property
    def wanted(self) -> str:
        return (
            f"boxes as a tensor [K, {self.columns + 1}] (image index, {self.names}) or a list with one tensor "
            f"[L, {self.columns}] for each image"
        )


XYXY = BoxForm(4, "x1, y1, x2, y2")
ROTATED = BoxForm(5, "centre x, centre y, width, height, angle")


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
    if input.dtype not in _DTYPES or input.layout != torch.strided:
        raise errors.DtypeError(
            "RA505: expected dense floating-point features (float64, float32, float16 or bfloat16); got "
            f"{describe(input)}. Use input.float(), or input.to_dense() if it is sparse."
        )


def check_options(output_size: Any, spatial_scale: Any, sampling_ratio: Any) -> tuple[tuple[int, int], float, int]:
    """The output size as (height, width), the scale and the ratio, once all three are found usable."""
    number = isinstance(spatial_scale, (Real, torch.SymFloat))
    if not number or not 0 < spatial_scale <= _MAX_SCALE:
        raise errors.ScaleError(
            f"RA105: expected spatial_scale, a finite number above zero; got {describe(spatial_scale)}. It is "
            "1 / stride: cells of the feature map per pixel of the image that the boxes are in, such as 1 / 16."
        )
    whole = isinstance(sampling_ratio, (Integral, torch.SymInt)) and not isinstance(sampling_ratio, bool)
    if not whole or sampling_ratio > MAX_SAMPLING_RATIO:
        raise errors.OutputSizeError(
            f"RA506: expected sampling_ratio, an integer of at most {MAX_SAMPLING_RATIO}; got "
            f"{describe(sampling_ratio)}. Use 2, or -1 to let the box's size decide."
        )
    size_hw = (output_size, output_size) if isinstance(output_size, (Integral, torch.SymInt)) else output_size
    if not isinstance(size_hw, Sequence) or len(size_hw) != 2 or not all(map(_is_side, size_hw)):
        raise errors.OutputSizeError(
            "RA506: expected output_size, one integer of at least 1 or a pair (height, width) of them; got "
            f"{output_size!r}. Use output_size=7 for 7 x 7 bins."
        )
    scale = spatial_scale if isinstance(spatial_scale, (float, torch.SymFloat)) else float(spatial_scale)
    ratio = sampling_ratio if isinstance(sampling_ratio, (int, torch.SymInt)) else int(sampling_ratio)
    return cast(tuple[int, int], tuple(size_hw)), cast(float, scale), cast(int, max(ratio, -1))


def _is_side(side: Any) -> bool:
    whole = isinstance(side, (Integral, torch.SymInt))
    return whole and bool(1 <= side < _MAX_SIDE)


def check_operator(
    map_like: Tensor,
    size_nhw: tuple[int, int, int],
    rois: Tensor,
    size_hw: Sequence[int],
    scale: float,
    ratio: int,
    form: BoxForm = XYXY,
) -> None:
    """Raise unless a registered operator was given what `as_rois` and `check_options` make of its arguments.

    `map_like` is what has the type of the features: they or their gradient.
    """
    check_options(tuple(size_hw), scale, ratio)
    images, height, width = size_nhw
    if map_like.dim() != 4 or images < 0 or min(height, width) < 1 or map_like.dtype not in _DTYPES:
        raise errors.FeatureMapError(
            f"RA306: expected four axes and a map of at least 1 x 1; got {describe(map_like)} for {size_nhw}. "
            "Call roialign.roi_align, which checks its arguments."
        )
    if rois.dim() != 2 or rois.shape[1] != form.columns + 1:
        raise errors.BoxesShapeError(
            f"RA207: expected rois [K, {form.columns + 1}]; got {describe(rois)}. Call roialign.roi_align."
        )
    if rois.dtype != compute_dtype(map_like) or rois.device != map_like.device:
        raise errors.DtypeError(
            f"RA505: expected rois of {compute_dtype(map_like)} on {map_like.device}; got {describe(rois)} on "
            f"{rois.device}. Call roialign.roi_align, which converts boxes."
        )


def as_rois(boxes: Any, input: Tensor, form: BoxForm = XYXY) -> Tensor:
    """Boxes in either of torchvision's two forms as rois [K, 5] of the type that is computed in."""
    if isinstance(boxes, Tensor):
        _check_tensor(boxes, input, form)
        return boxes.to(compute_dtype(input))
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(image_boxes, Tensor) for image_boxes in boxes):
        hint = "Use torch.from_numpy(boxes)." if type(boxes).__module__ == "numpy" else "Use torch.tensor(boxes)."
        raise errors.BoxesShapeError(f"RA210: expected {form.wanted}; got {describe(boxes)}. {hint}")
    _check_list(boxes, input, form)
    if not boxes:
        return input.new_empty(0, form.columns + 1, dtype=compute_dtype(input))
    coordinates = torch.cat([image_boxes.to(compute_dtype(input)) for image_boxes in boxes])
    counts = [image_boxes.shape[0] for image_boxes in boxes]
    images = torch.cat([coordinates.new_full((count, 1), image) for image, count in enumerate(counts)])
    return torch.cat([images, coordinates], dim=1)


def _check_tensor(boxes: Tensor, input: Tensor, form: BoxForm) -> None:
    if boxes.dim() == 2 and boxes.shape[1] == form.columns:
        raise errors.BoxesShapeError(
            f"RA207: expected {form.wanted}; got {describe(boxes)}: the column with the image index is missing. "
            "For boxes of one image pass a list: [boxes]."
        )
    if boxes.dim() != 2 or boxes.shape[1] != form.columns + 1:
        raise errors.BoxesShapeError(
            f"RA210: expected {form.wanted}; got {describe(boxes)}. "
            + (
                "Use boxes[None] for a single row."
                if boxes.dim() == 1
                else f"Flatten it to rows: boxes.reshape(-1, {form.columns + 1})."
            )
        )
    _check_dtype(boxes, input)


def _check_list(boxes: Sequence[Tensor], input: Tensor, form: BoxForm) -> None:
    for image, image_boxes in enumerate(boxes):
        if image_boxes.dim() != 2 or image_boxes.shape[1] != form.columns:
            raise errors.BoxesShapeError(
                f"RA210: expected {form.wanted}; got {describe(image_boxes)} for image {image}. In a list the "
                "position is the image index: leave that column out, and use "
                f"torch.empty(0, {form.columns}) for no boxes."
            )
        _check_dtype(image_boxes, input)
    if len(boxes) > input.shape[0]:
        raise errors.BatchIndexError(
            f"RA208: expected at most one list of boxes for each of the {input.shape[0]} images in the batch; got "
            f"{len(boxes)} lists. If all boxes are of one image, pass [torch.cat(boxes)]."
        )


def _check_dtype(boxes: Tensor, input: Tensor) -> None:
    if boxes.device != input.device:
        raise errors.DtypeError(
            f"RA505: expected boxes on the device of the features, {input.device}; got them on {boxes.device}. "
            f'Use boxes.to("{input.device}").'
        )
    if not boxes.is_floating_point():
        raise errors.DtypeError(f"RA505: expected floating-point boxes; got {describe(boxes)}. Use boxes.float().")
    half_features = input.dtype in (torch.float16, torch.bfloat16)
    fits = boxes.dtype == input.dtype or (half_features and boxes.dtype == torch.float32)
    if not fits and not torch.is_autocast_enabled(input.device.type):
        wanted = str(compute_dtype(input)).removeprefix("torch.")
        raise errors.DtypeError(
            f"RA505: expected {wanted} boxes for {str(input.dtype).removeprefix('torch.')} features; got "
            f"{describe(boxes)}. Use boxes.to(torch.{wanted})."
        )


def usable_boxes(
    rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Rows [K] of `rois` whose coordinates are finite and, under adaptive sampling, can be counted."""
    cells_xyxy = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    return _can_be_sampled(rois, cells_xyxy, (pooled_height, pooled_width), sampling_ratio, not aligned)


def _can_be_sampled(
    rois: Tensor,
    cells_xyxy: Tensor,
    pooled_hw: Sequence[int],
    sampling_ratio: int,
    widen: bool,
    most: int = MAX_ADAPTIVE_GRID,
) -> Tensor:
    """Rows [K]; `cells_xyxy` were computed in the kernels' order, so that both draw one line."""
    sizes = (cells_xyxy[:, 2:] - cells_xyxy[:, :2]).clamp(min=1.0 if widen else -math.inf)
    grids = (sizes / sizes.new_tensor([pooled_hw[1], pooled_hw[0]])).ceil().abs()
    countable = grids <= most if sampling_ratio <= 0 else grids.isfinite()
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


def usable_rotated_boxes(
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    *_angles: bool,
) -> Tensor:
    """Rows [K] of `rois` [K, 6] whose numbers are finite and, under adaptive sampling, can be counted."""
    centres = rois[:, 1:3].detach() * spatial_scale - (0.5 if aligned else 0.0)
    sizes = (rois[:, 3:5].detach() * spatial_scale).clamp(min=-math.inf if aligned else 1.0)
    grids = (sizes / sizes.new_tensor([pooled_width, pooled_height])).ceil().abs()
    countable = grids <= MAX_ADAPTIVE_GRID if sampling_ratio <= 0 else grids.isfinite()
    return rois[:, 1:].detach().isfinite().all(1) & centres.isfinite().all(1) & countable.all(1)


def check_rotated_values(images: int, rois: Tensor, *options: Any) -> None:
    """`check_values` for rois [K, 6]; `options` are those of the registered operator."""
    _raise_for_rows(images, rois, usable_rotated_boxes(rois, *options), ROTATED)


def as_masks(masks: Any, rois: Tensor) -> Tensor:
    """Masks [K, h, w], one for each of the rois, bool or in the type that is computed in."""
    wanted = f"RA309: expected masks, bool or floating point [K, h, w], one for each of {len(rois)} boxes; got"
    if isinstance(masks, (list, tuple)) and masks and all(isinstance(one, Tensor) for one in masks):
        if any(one.dim() != masks[0].dim() or one.shape[1:] != masks[0].shape[1:] for one in masks):
            raise errors.MaskError(
                f"{wanted} lists of masks of several sizes. Pad them to one, or pool each image in a call of its own."
            )
        masks = torch.cat(list(masks))
    if not isinstance(masks, Tensor):
        raise errors.MaskError(f"{wanted} {describe(masks)}. Pass a tensor, or a list with one for each image.")
    whole = masks.squeeze(1) if masks.dim() == 4 and masks.shape[1] == 1 else masks
    if whole.dim() != 3 or len(whole) != len(rois) or 0 in whole.shape[1:]:
        raise errors.MaskError(f"{wanted} {describe(masks)}. One box has one mask: masks[labels == ...] picks them.")
    if whole.device != rois.device or not (whole.dtype == torch.bool or whole.is_floating_point()):
        raise errors.MaskError(f"{wanted} {describe(masks)} on {masks.device}. Use masks.bool() on {rois.device}.")
    return whole if whole.dtype == torch.bool else whole.to(rois.dtype)


def check_operator_masks(masks: Tensor, rois: Tensor) -> None:
    """Raise unless a registered operator was given what `as_masks` makes of masks."""
    if masks.dim() != 3 or len(masks) != len(rois) or 0 in masks.shape[1:]:
        raise errors.MaskError(
            f"RA309: expected masks [K, h, w], one for each of {len(rois)} boxes; got {describe(masks)}. "
            "Call roialign.masked_roi_align, which checks its arguments."
        )
    if masks.dtype not in (torch.bool, rois.dtype) or masks.device != rois.device:
        raise errors.MaskError(
            f"RA309: expected masks, bool or {rois.dtype} on {rois.device}; got {describe(masks)} on {masks.device}. "
            "Call roialign.masked_roi_align, which converts masks."
        )


def as_pasting(masks: Any, boxes_xyxy: Any, image_size: Any, threshold: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Masks [K, m, n], boxes and the image's size, once what is to be pasted is found usable."""
    if not isinstance(boxes_xyxy, Tensor) or boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4:
        raise errors.BoxesShapeError(
            f"RA210: expected boxes_xyxy, a tensor [K, 4] of x1, y1, x2, y2; got {describe(boxes_xyxy)}. Paste the "
            "masks of each image in a call of its own."
        )
    if not boxes_xyxy.is_floating_point():
        raise errors.DtypeError(
            f"RA505: expected floating-point boxes; got {describe(boxes_xyxy)}. Use boxes_xyxy.float()."
        )
    if not (threshold is None or (isinstance(threshold, Real) and not math.isnan(threshold))):
        raise errors.MaskError(
            f"RA309: expected threshold, a number, or None for values; got {describe(threshold)}. Use 0.5."
        )
    size = image_size if isinstance(image_size, Sequence) else ()
    if len(size) != 2 or not all(map(_is_side, size)):
        raise errors.FrameError(
            f"RA307: expected image_size, (height, width) in pixels; got {image_size!r}. Of a tensor: image.shape[-2:]."
        )
    if isinstance(masks, Tensor) and masks.dtype == torch.bool:
        masks = masks.float()
    elif isinstance(masks, Tensor) and masks.dtype not in _DTYPES:
        raise errors.MaskError(f"RA309: expected floating-point masks; got {describe(masks)}. Use masks.float().")
    whole = as_masks(masks, boxes_xyxy.to(masks.dtype) if isinstance(masks, Tensor) else boxes_xyxy)
    if not (torch.compiler.is_compiling() or boxes_xyxy.is_meta):
        _raise_for_infinite(boxes_xyxy)
    return whole, boxes_xyxy, cast(tuple[int, int], tuple(size))


def check_pasting(masks: Tensor, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> None:
    """Raise unless a registered operator was given what `as_pasting` makes of its arguments."""
    if boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4 or not boxes_xyxy.is_floating_point():
        raise errors.BoxesShapeError(f"RA210: expected boxes_xyxy [K, 4]; got {describe(boxes_xyxy)}.")
    if masks.dim() != 3 or len(masks) != len(boxes_xyxy) or 0 in masks.shape[1:] or masks.dtype not in _DTYPES:
        raise errors.MaskError(
            f"RA309: expected masks, floating point [K, m, n], one for each of {len(boxes_xyxy)} boxes; got "
            f"{describe(masks)}. Call roialign.paste_masks, which checks its arguments."
        )
    if masks.device != boxes_xyxy.device or min(size_hw) < 1:
        raise errors.MaskError(
            f"RA309: expected boxes on {masks.device} and a size of at least 1 x 1; got them on {boxes_xyxy.device}, "
            f"and {size_hw}. Call roialign.paste_masks, which checks its arguments."
        )
    _raise_for_infinite(boxes_xyxy)


def _raise_for_infinite(boxes_xyxy: Tensor) -> None:
    unusable = ~boxes_xyxy.detach().isfinite().all(1)
    if bool(unusable.any()):
        row = int(unusable.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates; got {int(unusable.sum())} unusable rows of {len(boxes_xyxy)}, the "
            f"first boxes_xyxy[{row}] = {_row(boxes_xyxy, row)}. Drop them: boxes[boxes.isfinite().all(dim=1)]."
        )


def check_masked_values(
    images: int,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    _masks_in_image: bool,
) -> None:
    """`check_values` for boxes with masks."""
    cells_xyxy = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    size_hw = (pooled_height, pooled_width)
    usable = _can_be_sampled(rois, cells_xyxy, size_hw, sampling_ratio, not aligned, most=MAX_MASKED_GRID)
    _raise_for_rows(images, rois, usable)


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


def _raise_for_rows(images: int, rois: Tensor, usable: Tensor, form: BoxForm = XYXY) -> None:
    """Raise for the first row of `rois` that is not usable or names no image."""
    unusable = ~usable
    if bool(unusable.any()):
        row = int(unusable.nonzero()[0])
        raise errors.BoxesValueError(
            f"RA205: expected finite coordinates that adaptive sampling can count; got {int(unusable.sum())} "
            f"unusable rows of {len(rois)}, the first boxes[{row}] = {_row(rois, row)}. Look at what made them (a "
            "division by zero, an exploding regression), or drop them: boxes[boxes.isfinite().all(dim=1)]."
        )
    outside = ~usable_indices(rois, images)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        range_text = f"a whole number from 0 to {images - 1}" if images else "but the batch has no images"
        raise errors.BatchIndexError(
            f"RA206: expected in column 0 the index of an image, {range_text}; got "
            f"{int(outside.sum())} rows of {len(rois)} with another, the first boxes[{row}] = {_row(rois, row)}. "
            f"Column 0 is the image, then {form.names}; boxes of one image can be passed as a list: [boxes]."
        )


def _row(rois: Tensor, row: int) -> str:
    return "[" + ", ".join(f"{value:g}" for value in rois[row].tolist()) + "]"
