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
SECONDS = 8.0  # for the passes of a check


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
    image = _image(backbone, result.image_size_hw)
    local = {name: grid for name, grid in result.items() if not any(result.whole_image[name]) and _has_claim(grid)}
    mixed = {name: grid for name, grid in result.items() if name not in local}
    wrong: dict[str, str] = {}
    means: list[str] = []
    if local:
        wrong |= check(backbone, _maps(result, local), local, image, seconds)
        means.append("spoilt lines")
    if mixed:
        apart, by_itself = _without_mixing(backbone, result, mixed)
        if apart:
            wrong |= check(Unmixed(backbone), _maps(by_itself, apart), apart, image, seconds)
            means.append("spoilt lines, without what mixes the image")
        rest = {name: grid for name, grid in mixed.items() if name not in apart}
        if rest:
            doubts = _by_answers(backbone, result, rest, image, wrong)
            if doubts and not wrong:
                return "not checked", doubts
            means.append("which cells answer most")
    if wrong:
        return "wrong", "; ".join(f"{name}: {what}" for name, what in wrong.items())
    return "right", "; ".join(means)


def _has_claim(grid: FeatureGrid) -> bool:
    return grid.structural_offset_yx is not None and grid.receptive_field_hw is not None


def _without_mixing(
    backbone: nn.Module, result: BackboneTrace, mixed: Mapping[str, FeatureGrid]
) -> tuple[dict[str, FeatureGrid], BackboneTrace]:
    """The strides and offsets of maps that mix the image, with the receptive fields that they have if they do not."""
    try:
        alone = trace(Unmixed(backbone), result.image_size_hw, measured=False)
    except RoIError:
        return {}, result
    found = {}
    for name, grid in mixed.items():
        if name in alone and not any(alone.whole_image[name]) and _has_claim(grid) and _has_claim(alone[name]):
            own = alone[name]
            found[name] = replace(grid, receptive_field_hw=own.receptive_field_hw, offset_range_yx=own.offset_range_yx)
    return found, replace(result, layouts={**result.layouts, **{name: alone.layouts[name] for name in found}})


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
    channels = next((m.in_channels for m in backbone.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), 3)
    return torch.rand(1, channels, *size_hw, generator=torch.Generator().manual_seed(0))
