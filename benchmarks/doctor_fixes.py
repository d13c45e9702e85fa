"""Makes the fixes that the doctor proposes, and compares what they give with the healthy output."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import poolers

import roialign
from roialign.doctor.findings import Fix

from .doctor_pipelines import Intake, Pipeline, moved

_EQUAL = 1e-3  # of the largest value: more is another region, not rounding


def is_right(repaired: Tensor | None, right: Tensor, spoilt: Tensor | None) -> bool:
    """Whether the output equals the healthy one; rows that cannot be put right may be left out, or hold anything."""
    if repaired is None:
        return False
    if spoilt is None or _equal(repaired, right):
        return _equal(repaired, right)
    kept = right[~spoilt[: len(right)]]
    return _equal(repaired, kept) or (len(repaired) == len(spoilt) and _equal(repaired[~spoilt], kept))


def _equal(one: Tensor, right: Tensor) -> bool:
    if one.shape != right.shape:
        return False
    return not right.numel() or float((one - right).abs().max()) <= _EQUAL * float(right.abs().max())


def within_a_pixel(fix: Fix, intake: Intake) -> bool:
    """Whether the boxes with the fix lie within a pixel of the right ones: images are resized to whole pixels."""
    right = moved(intake.scene.boxes_xyxy, intake.photo_to_frame)
    boxes = fix.call.rois[:, 1:] * (fix.call.spatial_scale * intake.stride)
    return fix.argument == "boxes" and boxes.shape == right.shape and float((boxes - right).abs().max()) <= 1


def repaired(pipeline: Pipeline, intake: Intake, fix: Fix) -> Tensor | None:
    """The output with the fix made: of the proven call, or, for a pyramid, of the line pasted before the pooler."""
    if pipeline.kind == "pyramid":
        return _before_the_pooler(pipeline, intake, fix.code)
    if fix.argument == "function":
        return pasted(pipeline, intake, fix.code)
    call = fix.call
    if pipeline.kind == "other operator":
        changes: dict[str, Any] = {"features": call.input, "boxes": call.rois, "spatial_scale": call.spatial_scale}
        return pipeline.pool(replace(intake, **changes))
    return call.run()[0]


def pasted(pipeline: Pipeline, intake: Intake, code: str) -> Tensor | None:
    """What the program gives with the line as it stands, before its call or in its place; None where that fails."""
    _begin_anew(pipeline, intake, code)
    names = _names(pipeline, intake, _copied(intake.handed)) | {"features": _copied(intake.features)}
    try:
        with roialign.watch():  # which raises where a wrong line would crash the process
            return _output(pipeline, intake, code, names)
    except Exception:  # whatever a stranger's line raises
        return None


def _copied(value: Any) -> Any:
    """A copy that the line may write into."""
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value.clone() if isinstance(value, Tensor) else value


def _output(pipeline: Pipeline, intake: Intake, code: str, names: dict[str, Any]) -> Tensor:
    """Run the line, and what is left to run; a value that it ends in is the output, or the pooler, or the boxes."""
    tree = ast.parse(code)
    last = tree.body[-1]
    value = None
    if isinstance(last, ast.Expr):
        exec(compile(ast.Module(tree.body[:-1], []), "pasted", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "pasted", "eval"), names)
    else:
        exec(code, names)
    pooled = getattr(value, "features", value)
    if isinstance(pooled, Tensor) and pooled.dim() == 4:
        return pooled
    boxes = names["boxes"] if value is None or isinstance(value, nn.Module) else value
    if pipeline.kind == "pyramid":
        pooler = value if isinstance(value, nn.Module) else names["pooler"]
        made: Any = pooler(names["features"], boxes, list(intake.image_shapes))
        return made
    changes = {"features": names["features"], "boxes": boxes, "spatial_scale": names["spatial_scale"]}
    return pipeline.pool(replace(intake, rows=False, **changes))


def _names(pipeline: Pipeline, intake: Intake, boxes: Any) -> dict[str, Any]:
    """What a program holds where it pools."""
    library: Any = roialign if intake.library == "roialign" else torchvision.ops
    return {
        "features": intake.features,
        "boxes": boxes,
        "spatial_scale": intake.spatial_scale,
        "image_sizes": list(intake.image_shapes),
        "tokens": intake.tokens,
        "grid": intake.grid,
        "torch": torch,
        "torchvision": torchvision,
        "roialign": roialign,
        "roi_align": library.roi_align,
        "roi_pool": torchvision.ops.roi_pool,
        "ps_roi_align": torchvision.ops.ps_roi_align,
        "pool_regions": roialign.pool_regions,
        "FeatureGrid": roialign.FeatureGrid,
        "MultiScaleRoIAlign": poolers.MultiScaleRoIAlign,
        "model": pipeline.model,
        "pooler": pipeline.pooler,
    }


def _begin_anew(pipeline: Pipeline, intake: Intake, code: str) -> None:
    """Bring a pooler to the state in which the program stops, or, if its scales are not set, begins with the line."""
    if pipeline.kind != "pyramid":
        return
    if ".scales" in code:
        with suppress(Exception):
            pipeline.pool(intake)
    else:
        pipeline.pooler.scales = pipeline.pooler.map_levels = None


def _before_the_pooler(pipeline: Pipeline, intake: Intake, code: str) -> Tensor | None:
    """What the pooler gives with the line before it; a line that turns the axes of one map turns those of all."""
    axes = re.match(r"roi_align\(features(\.\w+\([\d, ]*\))", code)
    if axes:
        code = f"features = {{name: one{axes[1]} for name, one in features.items()}}"
    return pasted(pipeline, intake, code)
