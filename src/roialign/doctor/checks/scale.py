"""Checks of frames and scale: RA101 to RA110. Each is a pure function of the evidence."""

from __future__ import annotations

import math

import torch

from roialign.doctor.checks.operators import is_of_an_image
from roialign.doctor.evidence import COMMON_STRIDES, Evidence, number, rows_where
from roialign.doctor.findings import Finding, Fix

_BOXES_NOT_BY_CHANCE = 5  # that many boxes of one image do not all lie in its top left corner by chance

_MOST_OFF_NO_STRIDE = 0.25  # cells at the far edge, for a scale of no whole stride
_SAME_RATIO = 0.004
_LEAST_OVERHANGING = 0.1  # of the boxes

PASS_THE_IMAGE = (
    "Pass image_size=(H, W), the size of the tensor that entered the backbone, to roialign.diagnose to decide."
)


def pixels_unscaled(known: Evidence) -> Finding | None:
    """RA101: boxes in image pixels, scale left at 1."""
    if known.call.spatial_scale != 1.0 or not known.misplaced:
        return None
    fixes = fitting_scales(known)
    if not fixes:
        return None
    height, width = known.call.map_size_hw
    x, y = known.furthest_xy
    where = (
        f"The segments reach to {x:g}, but the sequence has only {width} cells"
        if known.call.operator == "roi_align_1d"
        else f"The boxes reach to x = {x:g}, y = {y:g}, but the map has only {width} columns and {height} rows"
    )
    evidence = f"{where} and spatial_scale is 1.0. {_off_the_map(known)} {_stride_sentence(known, fixes[0])}"
    return Finding("RA101", evidence, rows_where(known.low), fixes[0], fixes[1:], _decide(known, fixes))


def stride_for_inverse(known: Evidence) -> Finding | None:
    """RA104: the stride passed where its inverse belongs."""
    scale = known.call.spatial_scale
    if scale < 2 or not known.misplaced:
        return None
    fix = known.scale_fix(1 / scale)
    if not known.well_placed(fix.call):
        return None
    evidence = (
        f"spatial_scale is {scale:g}, which enlarges the boxes; its inverse, {number(1 / scale)}, puts them on the "
        f"map. {_off_the_map(known)}"
    )
    return Finding("RA104", evidence, rows_where(known.low), fix)


def scaled_twice(known: Evidence) -> Finding | None:
    """RA102: boxes that are in cells already are scaled once more."""
    scale, (height, width) = known.call.spatial_scale, known.call.map_size_hw
    if scale > 0.5 or len(known.boxes_xyxy) < 2 or known.nearest < -0.5:
        return None
    x, y = known.furthest_xy
    side = float(known.sides.median())
    if x > width + 0.5 or y > height + 0.5 or max(x / width, y / height) < 0.25:
        return None
    too_small_to_be_pixels = side >= 1 > side * scale
    if not too_small_to_be_pixels and len(known.boxes_xyxy) < _BOXES_NOT_BY_CHANCE:
        return None
    fix = known.scale_fix(1.0)
    evidence = (
        f"All boxes end within x = {x:g}, y = {y:g}, as if they were already in cells of the {height} x {width} map. "
        f"With spatial_scale={number(scale)} they end within cell ({x * scale:.3g}, {y * scale:.3g}) and the median "
        f"side is {side * scale:.2g} of a cell; without it, {side:.3g} cells."
    )
    return Finding("RA102", evidence, tuple(range(len(known.boxes_xyxy))), fix)


def normalised(known: Evidence) -> Finding | None:
    """RA103: coordinates between 0 and 1."""
    x, y = known.furthest_xy
    scaled = known.call.spatial_scale != 1.0  # otherwise the boxes should be in cells
    frame_h, frame_w = (_unpadded(known) or known.image_size_hw if scaled else None) or known.frame_hw
    if max(x, y) > 1.05 or max(x, y) <= 0 or known.nearest < -0.05 or max(frame_h, frame_w) < 8:
        return None
    if not bool((known.sides > 0).all(1).any()):
        return None
    if not scaled and known.stride_yx is not None and known.image_size_hw is not None:  # sizes of maps are rounded
        frame_h, frame_w = (image / s for image, s in zip(known.image_size_hw, known.stride_yx, strict=True))
    height, width = (f"{side:.6g}" for side in ((round(frame_h), round(frame_w)) if scaled else (frame_h, frame_w)))
    sizes = known.boxes_xyxy.new_tensor([float(width), float(height)] * 2)
    fix = known.boxes_fix(
        known.boxes_xyxy * sizes,
        f"boxes[:, -4:] *= boxes.new_tensor([{width}, {height}, {width}, {height}])",
    )
    evidence = (
        f"All coordinates lie between {known.nearest:.3g} and {max(x, y):.3g}, where the map covers about "
        f"{height} x {width} {'pixels' if scaled else 'cells'}: every RoI reads the same corner of it."
    )
    return Finding("RA103", evidence, tuple(range(len(known.boxes_xyxy))), fix)


def uneven_strides(known: Evidence) -> Finding | None:
    """RA110: height and width need different scales."""
    if known.stride_yx is None or known.call.spatial_scale == 1.0:
        return None
    stride_y, stride_x = known.stride_yx
    cells_off = abs(stride_y / stride_x - 1) * max(known.call.map_size_hw)
    if cells_off <= 1:
        return None
    strides = known.boxes_xyxy.new_tensor([stride_x, stride_y, stride_x, stride_y])
    call = known.call.with_(rois=torch.cat([known.call.rois[:, :1], known.boxes_xyxy / strides], 1), spatial_scale=1.0)
    code = f"boxes[:, -4:] /= boxes.new_tensor([{stride_x:g}, {stride_y:g}] * 2)  # then spatial_scale=1.0"
    evidence = (
        f"From {known.how_stride_is_known} the stride is {stride_y:.4g} down and {stride_x:.4g} across; no single "
        f"spatial_scale fits both, and {number(known.call.spatial_scale)} is up to {cells_off:.2g} cells off."
    )
    return Finding("RA110", evidence, tuple(range(len(known.boxes_xyxy))), known.fix("boxes", None, code, call))


def wrong_stride(known: Evidence) -> Finding | None:
    """RA106: spatial_scale is not the inverse of this map's stride."""
    scale = known.call.spatial_scale
    if scale == 1.0 or known.stride_yx is None:
        return None
    height, width = known.call.map_size_hw
    stride = known.stride_yx[0]
    cells_off = abs(scale * stride - 1) * max(height, width)
    if cells_off <= (_MOST_OFF_NO_STRIDE if _is_no_stride(known) else 1):
        return None
    fix = known.scale_fix(1 / stride)
    if not known.well_placed(fix.call) or known.likelihood(known.call) > 5 * known.likelihood(fix.call):
        return None  # the boxes are in another frame, for which the scale may be right
    evidence = (
        f"From {known.how_stride_is_known} the stride is {stride:g}, but spatial_scale={number(scale)} claims "
        f"{1 / scale:g}: at the far edge the RoIs are read {cells_off:.2g} cells off. {_off_the_map(known)}".rstrip()
    )
    return Finding("RA106", evidence, tuple(range(len(known.boxes_xyxy))), fix)


def _unpadded(known: Evidence) -> tuple[int, int] | None:
    """The size of the images before they were padded to one size, where that was seen and is one for all."""
    photographs = known.around.photographs if known.around is not None else None
    sizes = set(photographs.resized_hw) if photographs is not None else set()
    return sizes.pop() if len(sizes) == 1 else None


def _is_no_stride(known: Evidence) -> bool:
    """Whether the scale belongs to no whole stride, and is not the ratio of the sizes either, as of a resized map."""
    if known.image_size_hw is None:
        return False
    scale, stride = known.call.spatial_scale, 1 / known.call.spatial_scale
    if not math.isfinite(stride):
        return False
    pairs = list(zip(known.call.map_size_hw, known.image_size_hw, strict=True))
    ratios = [cells / image for cells, image in pairs]
    ratios += [(cells - 1) / (image - 1) for cells, image in pairs if min(cells, image) > 1]  # as corners are aligned
    near = min(abs(scale / ratio - 1) for ratio in ratios) if min(ratios) > 0 else 0.0
    return abs(stride - round(stride)) > 0.005 * stride and near > _SAME_RATIO and max(known.call.map_size_hw) >= 8


def other_frame(known: Evidence) -> Finding | None:
    """RA107: boxes in another image frame than the one that entered the backbone."""
    if known.stride_yx is None or known.image_size_hw is None or known.call.spatial_scale == 1.0:
        return None
    height, width = known.image_size_hw
    x, y = known.furthest_xy
    if (x <= 1.05 * width and y <= 1.05 * height) or not (known.misplaced or _overhang(known)) or _stray(known):
        return None
    evidence = (
        f"The boxes reach to x = {x:g}, y = {y:g}, but the image that entered the backbone has {width:g} columns and "
        f"{height:g} rows. {_off_the_map(known)}"
    )
    return Finding(
        "RA107",
        evidence,
        rows_where(known.low),
        decide="Apply to the boxes what was done to the image: multiply by new size / old size for a resize, add the "
        "padding for a letterbox, subtract the corner for a crop.",
    )


def wrong_stride_by_boxes(known: Evidence) -> Finding | None:
    """RA106, where only the boxes speak: they reach beyond the map, and a common stride would hold them."""
    if known.stride_yx is not None or known.call.spatial_scale == 1.0 or not known.misplaced:
        return None
    if known.nearest < -0.5 * max(known.frame_hw) or _stray(known):
        return None
    fixes = fitting_scales(known)
    if not fixes:
        return None
    x, y = known.furthest_xy
    height, width = known.frame_hw
    evidence = (
        f"The boxes reach to x = {x:g}, y = {y:g}, but with spatial_scale={number(known.call.spatial_scale)} the map "
        f"covers an image of {height:.4g} x {width:.4g} only. {_off_the_map(known)}"
    )
    decide = "It may also be RA107, boxes of the image before it was resized: then scale the boxes. " + PASS_THE_IMAGE
    return Finding("RA106", evidence, rows_where(known.low), fixes[0], fixes[1:], decide)


def _overhang(known: Evidence) -> bool:
    """Whether many boxes reach far beyond the far edges, and none beyond the near ones, as those of a crop do."""
    height, width = known.image_size_hw or known.frame_hw
    far = 1.05 if len(known.boxes_xyxy) >= 3 else 1.15
    beyond = (known.boxes_xyxy[:, 2:] > known.boxes_xyxy.new_tensor([width, height]) * far).any(1)
    straddling = beyond & (known.coverage > 0)
    least = max(min(2, len(beyond)), _LEAST_OVERHANGING * len(beyond))
    return known.nearest > -0.01 * min(height, width) and int(straddling.sum()) >= least


def _stray(known: Evidence) -> bool:
    """Whether one box lies wholly beyond the image and all others inside: a wrong frame seldom moves just one."""
    height, width = known.image_size_hw or known.frame_hw
    inside = (known.boxes_xyxy[:, 2:] <= known.boxes_xyxy.new_tensor([width, height]) * 1.01).all(1)
    wholly = known.low & (known.coverage == 0)
    return len(inside) >= 2 and int(wholly.sum()) == 1 and int(inside.sum()) == len(inside) - 1


def fitting_scales(known: Evidence) -> tuple[Fix, ...]:
    """Fixes with the stride that is known, or else with each common stride that fits, the likeliest first."""
    if known.stride_yx is not None:
        fix = known.scale_fix(1 / known.stride_yx[0])
        return (fix,) if known.well_placed(fix.call) else ()
    fixes = [(known.scale_fix(1 / stride), prior) for stride, prior in COMMON_STRIDES.items()]
    scored = [(known.likelihood(fix.call) * prior, fix) for fix, prior in fixes if known.well_placed(fix.call)]
    ranked = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
    return tuple(fix for score, fix in ranked if score > ranked[0][0] / 20)


def _stride_sentence(known: Evidence, fix: Fix) -> str:
    if known.stride_yx is not None:
        return f"From {known.how_stride_is_known} the stride is {known.stride_yx[0]:g}."
    return f"With stride {1 / fix.value:g} the boxes reach across {100 * known.fill(fix.call):.0f} % of the map."


def _decide(known: Evidence, fixes: tuple[Fix, ...]) -> str | None:
    if known.stride_yx is not None or len(fixes) < 2:
        return None
    if not is_of_an_image(known.call):
        return "The stride is the product of the strides of the layers before this call."
    return PASS_THE_IMAGE


def _off_the_map(known: Evidence) -> str:
    count, wholly = int(known.low.sum()), int((known.low & (known.coverage == 0)).sum())
    if not count:
        return ""
    return f"{count} of {len(known.low)} RoIs lie off the map ({wholly} of them wholly), where every sample is zero."
