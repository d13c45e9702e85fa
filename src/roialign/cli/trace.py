"""`roialign trace`: the grids of a backbone's feature maps."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast, get_args

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from roialign.backbones import BackboneTrace, calibrate
from roialign.backbones.layers import LayerStep
from roialign.backbones.pictures import sources_of
from roialign.backbones.result import pair, shortened
from roialign.backbones.sandbox import first_line
from roialign.backbones.trace import trace
from roialign.errors import RoIError
from roialign.geometry.grid import OffsetKind
from roialign.integrations.models import ModelError, load_backbone
from roialign.integrations.models.file import line_in

_WIDTH = 80


@dataclass(frozen=True)
class Images:
    """What to calibrate on: a folder of images, where to draw the curves, and three numbers each, with commas."""

    folder: Path
    plot: Path | None
    mean: str
    std: str


def run(
    model: str,
    size: str,
    offset: str,
    as_json: bool,
    layers: bool,
    images: Images | None = None,
    channels: int | None = None,
) -> int:
    """Print what is known of the model's grids; the exit status."""
    image_hw = _parsed(size)
    if image_hw is None:
        return _refused(f"expected --size HEIGHTxWIDTH, such as 800x1344; got {size!r}")
    if offset not in get_args(OffsetKind):
        return _refused(f"expected --offset {', '.join(get_args(OffsetKind))}; got {offset!r}")
    try:
        backbone = load_backbone(model, image_hw)
        result = _calibrated(backbone, image_hw, images) if images else trace(backbone, image_hw, channels=channels)
        result = result.with_offset(cast(OffsetKind, offset))
    except (ModelError, ImportError, RoIError, _NotNumbersError) as error:
        return _refused(f"{error}{_line_of_file(error, model)}")
    except Exception as error:  # whatever a model or a library raises; what is ours is a defect, and said to be one
        return _refused(
            f"{model} could not be traced: {first_line(error)}{_line_of_file(error, model) or _place(error)}"
        )
    if as_json:
        content = result.to_dict()
        if layers:
            content["layers"] = [asdict(step) for step in result.layers]
        print(json.dumps(content, indent=2))
        return 0
    print(result)
    if layers:
        print("\nlayer by layer, where something changes:\n")
        print("\n".join(layer_table(result.layers)))
    return 0


def _refused(message: str) -> int:
    lines = textwrap.wrap(f"roialign trace: {message}", _WIDTH, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr)
    return 2


def _line_of_file(error: BaseException, model: str) -> str:
    """Where in the user's own file it was that something failed while the model ran."""
    cause, path = error.__cause__ or error, Path(model.rpartition(":")[0])
    line = None if isinstance(error, ModelError) or not path.is_file() else line_in(cause, path)
    return "" if line is None else f" It was raised in {path}, line {line}."


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f", in {Path(frame.filename).name}, line {frame.lineno}. This should not happen: please report it with the "
        "output of roialign env"
    )


class _NotNumbersError(ValueError):
    """A normalization that is not one number for each channel."""


def _calibrated(backbone: nn.Module, image_hw: tuple[int, int], images: Images) -> BackboneTrace:
    mean, std = _per_channel("mean", images.mean), _per_channel("std", images.std)
    sources = list(sources_of(images.folder))
    shown = track(sources, "calibrating", console=Console(stderr=True), transient=True)
    result = calibrate(backbone, shown, image_size=image_hw, transform=lambda image_chw: (image_chw - mean) / std)
    if images.plot is not None:
        result.calibration.save(images.plot)
    return result


def _per_channel(option: str, text: str) -> torch.Tensor:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise _NotNumbersError(f"expected --{option} as one number or three, such as 0.485,0.456,0.406; got {text!r}")
    return torch.tensor(values).view(-1, 1, 1)


def _parsed(size: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", size.strip().lower())
    if match is None:
        return None
    height, width = int(match[1]), int(match[2] or match[1])
    return (height, width) if height and width else None


def layer_table(steps: Sequence[LayerStep]) -> list[str]:
    """The accumulation in at most 80 columns; long module paths lose their beginning."""
    rows: list[tuple[str, ...]] = [("module", "operator", "kernel", "step", "pad", "stride", "offset", "field")]
    rows += [_row(step) for step in steps]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[1] = min(widths[1], 20)
    widths[0] = min(widths[0], _WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for row in rows:
        texts = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        names = [shortened(row[0], widths[0]).ljust(widths[0]), row[1][: widths[1]].ljust(widths[1])]
        lines.append("  ".join([*names, *texts]).rstrip())
    return lines


def _row(step: LayerStep) -> tuple[str, ...]:
    field = ["whole" if size is None else f"{size:.5g}" for size in step.receptive_field_hw]
    kernel = _numbers(step.kernel)
    if step.dilation and max(step.dilation) > 1:
        kernel += f" /{_numbers(step.dilation)}"
    return (
        step.module,
        step.operator.removeprefix("_").removesuffix("_with_indices"),
        kernel,
        _numbers(step.stride),
        _numbers(step.padding),
        pair(step.stride_yx),
        pair(step.offset_yx),
        field[0] if field[0] == field[1] else ", ".join(field),
    )


def _numbers(values: tuple[int, ...] | None) -> str:
    if not values:
        return ""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
