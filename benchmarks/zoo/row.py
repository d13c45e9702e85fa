"""One row of the table: a model at a size, traced, and checked by brute force."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.zoo.check import TooSlowError, answers, check
from benchmarks.zoo.unmixed import Unmixed
from roialign.backbones import BackboneTrace
from roialign.backbones.layout import Layout
from roialign.backbones.trace import trace
from roialign.errors import RoIError
from roialign.geometry import FeatureGrid
from roialign.integrations.models import ModelError, load_backbone

Outcome = Literal["right", "not checked", "refused", "wrong", "crashed"]
SECONDS = 5.0  # for the passes of a check


@dataclass(frozen=True)
class Row:
    """What came of a model at a size (height, width); processor seconds for building, tracing and checking it."""

    model: str
    size_hw: tuple[int, int]
    outcome: Outcome
    detail: str
    maps: int = 0
    build_s: float = 0.0
    trace_s: float = 0.0
    check_s: float = 0.0


def traced_and_checked(model: str, size_hw: tuple[int, int], seconds: float = SECONDS) -> Row:
    """Build it with seeded weights, trace it as the command does, and check the result."""
    times, begin = [0.0, 0.0], time.process_time()
    try:
        torch.manual_seed(0)
        backbone = load_backbone(model, size_hw).eval()
        times[0] = time.process_time() - begin
        result = trace(backbone, size_hw)
        times[1] = time.process_time() - begin - times[0]
    except (RoIError, ModelError, ImportError) as refusal:
        return Row(model, size_hw, "refused", str(refusal), 0, *times)
    except Exception as error:
        return Row(model, size_hw, "crashed", f"{type(error).__name__}: {error}", 0, *times)
    begin = time.process_time()
    try:
        outcome, detail = verdict(backbone, result, seconds)
    except TooSlowError as reason:
        outcome, detail = "not checked", str(reason)
    except Exception as error:  # of the model, when it is run
        outcome, detail = "not checked", f"the model raised {type(error).__name__}: {error}"
    return Row(model, size_hw, outcome, detail, len(result), *times, time.process_time() - begin)


def verdict(backbone: nn.Module, result: BackboneTrace, seconds: float) -> tuple[Outcome, str]:
    """Whether the grids of a trace are right, and by what it is known."""
    image, slack = _image(backbone, result.image_size_hw), _slack(result)
    alone = _without_mixing(backbone, result)
    local = {
        name: grid for name, grid in result.items() if _is_local(result, name) and not _is_mixed(name, grid, alone)
    }
    apart = {
        name: replace(
            grid,
            receptive_field_hw=alone[name].receptive_field_hw,
            receptive_field_centre_yx=alone[name].receptive_field_centre_yx,
            offset_range_yx=alone[name].offset_range_yx,
        )
        for name, grid in result.items()
        if name not in local and alone is not None and _is_local(alone, name) and grid.structural_offset_yx is not None
    }
    rest = {name: grid for name, grid in result.items() if name not in local and name not in apart}
    wrong: dict[str, str] = {}
    means: list[str] = []
    if local:
        wrong |= check(backbone, _maps(result, local), local, image, seconds, slack)
        means.append("spoilt lines")
    if apart and alone is not None:
        wrong |= check(Unmixed(backbone), _maps(alone, apart), apart, image, seconds, slack)
        means.append("spoilt lines, without what mixes the image")
    if rest:
        doubts = _by_answers(backbone, result, rest, image, wrong)
        if doubts and not wrong:
            return "not checked", doubts
        means.append("which cells answer most")
    if wrong:
        return "wrong", "; ".join(f"{name}: {what}" for name, what in wrong.items())
    return "right", "; ".join(means)


def _slack(result: BackboneTrace) -> float:
    """Where maps are interpolated, cells are not in the middle of what they see, by half a stride of the coarsest."""
    is_interpolated = any("linear" in step.operator or "cubic" in step.operator for step in result.layers)
    return max(stride for step in result.layers for stride in step.stride_yx) / 2 if is_interpolated else 0.0


def _without_mixing(backbone: nn.Module, result: BackboneTrace) -> BackboneTrace | None:
    """The trace of the model without what mixes the image; None if there is nothing of the kind in it."""
    model = Unmixed(backbone)
    try:
        alone = trace(model, result.image_size_hw, measured=False)
    except RoIError:
        return None
    return alone if model.acted else None


def _is_local(result: BackboneTrace, name: str) -> bool:
    """Whether a trace says of a map what its cells see, and that it is not the whole image."""
    grid = result.get(name)
    return (
        grid is not None
        and grid.structural_offset_yx is not None
        and grid.receptive_field_hw is not None
        and not any(result.whole_image[name])
    )


def _is_mixed(name: str, grid: FeatureGrid, alone: BackboneTrace | None) -> bool:
    """Whether cells see less without attention, such as that of windows, in which they see unlike parts."""
    return alone is not None and name in alone and alone[name].receptive_field_hw != grid.receptive_field_hw


def _by_answers(
    backbone: nn.Module,
    result: BackboneTrace,
    grids: Mapping[str, FeatureGrid],
    image: Tensor,
    wrong: dict[str, str],
) -> str:
    """Adds the maps that others answer for to what is wrong; says which maps this does not decide."""
    open_: list[str] = []
    for name, (own, others, none) in answers(backbone, _maps(result, grids), grids, image).items():
        if others > own:
            wrong[name] = f"at {others} of {own + others + none} places others cells answer most"
        elif none or others:
            open_.append(f"{name}: its own cell answers most at {own} of {own + others + none} places")
    return "; ".join(open_)


def _maps(result: BackboneTrace, names: Mapping[str, Any]) -> Any:
    layouts: dict[str, Layout] = {name: result.layouts[name] for name in names}
    return lambda outputs: {name: layout.find(outputs) for name, layout in layouts.items()}


def _image(backbone: nn.Module, size_hw: tuple[int, int]) -> Tensor:
    """Of 3 channels, or of as many as the first convolution takes, as `trace` tries them."""
    image = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            backbone(image)
    except Exception:  # the model's own
        first = next(m for m in backbone.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
        return torch.rand(1, first.in_channels, *size_hw, generator=torch.Generator().manual_seed(0))
    return image
