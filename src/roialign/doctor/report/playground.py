"""What the interactive figure of a page holds: calls to start from, and the values of the map that they read.

Convention: boxes are as the call has them, xyxy; `frame_hw` is the size of the image that they should be in.
"""

from __future__ import annotations

import array
import base64
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.findings import Problem
from roialign.doctor.report.exhibit import Panel
from roialign.doctor.report.words import scale_text
from roialign.ops.calls import RoICall
from roialign.ops.functions import function_of

MAX_BINS = 64  # more along one side cannot be told apart in the figure
MAX_CELLS = 1 << 16  # a larger map is held as the mean of its channels only
MAX_CELLS_OF_ONE_CHANNEL = 1 << 18  # of a still larger one no values are held
MAX_VALUES = 1 << 20  # float32 values that all figures of a page hold together: 5.6 MB of text


@dataclass
class Values:
    """The feature values that a page holds, those of one map once."""

    maps: list[list[dict[str, str]]] = field(default_factory=list)
    """The channels of each map, as {"name": ..., "values": float32 in base64}."""
    left: int = MAX_VALUES
    _places: dict[tuple[int, int, torch.Size], int] = field(default_factory=dict)

    def place(self, features: Tensor, image: int) -> int | None:
        """Where in `maps` the map of this image is; None where it is too large for what the page may still hold."""
        key = (id(features), image, features.shape)
        if key not in self._places:
            channels = _channels(features[image])
            size = sum(values.numel() for values in channels.values())
            if not 0 < size <= self.left:
                return None
            self.left -= size
            self._places[key] = len(self.maps)
            self.maps.append([{"name": name, "values": _base64(values)} for name, values in channels.items()])
        return self._places[key]


def playground(problem: Problem, panel: Panel, values: Values) -> dict[str, Any] | None:
    """The figure's data as JSON can hold it, with the RoIs of `panel`; None where there is no call to start from."""
    call, fix = problem.diagnosis.call, problem.finding.fix
    same_rows = call is not None and fix is not None and len(fix.call.rois) == len(call.rois)
    calls = [] if call is None else [("As called", call)]
    if fix is not None and (call is None or same_rows):
        calls.append(("With the fix", fix.call))
    if not calls:
        return None
    last = calls[-1][1]
    photo = problem.diagnosis.image if panel.shows_image else None
    frame_hw = _frame_of(last) if photo is None else (photo.shape[1], photo.shape[2])
    rows = [outline.row for outline in panel.reads]
    return {
        "frame_hw": frame_hw,
        "frame_note": _frame_note(last, frame_hw, photo is not None),
        "single": last.rois.dtype != torch.float64,
        "rows": rows,
        "presets": [_preset(name, call, rows, panel.image or 0, values) for name, call in calls],
    }


def _preset(name: str, call: RoICall, rows: list[int], image: int, values: Values) -> dict[str, Any]:
    place = values.place(call.input, image) if 0 <= image < len(call.input) else None
    boxes_xyxy = call.rois[rows, 1:].detach().cpu().double()
    return {
        "name": name,
        "map_hw": call.map_size_hw,
        "values": place,
        "values_note": _values_note(call, place),
        "output_size": [min(side, MAX_BINS) for side in call.output_size_hw],
        "spatial_scale": call.spatial_scale,
        "cells": call.cells,
        "operator": call.operator,
        "sampling_ratio": call.sampling_ratio,
        "aligned": call.aligned,
        "boxes": [box.tolist() if bool(box.isfinite().all()) else None for box in boxes_xyxy],
    }


def _frame_of(call: RoICall) -> tuple[float, float]:
    height, width = call.map_size_hw
    scale_y, _, scale_x, _ = call.cells or (call.spatial_scale, 0.0, call.spatial_scale, 0.0)
    return height / scale_y, width / scale_x


def _frame_note(call: RoICall, frame_hw: tuple[float, float], seen: bool) -> str:
    height, width = (f"{side:.6g}" for side in frame_hw)
    if seen:
        return f"The picture is the image that entered the backbone, {height} x {width} pixels (height x width)."
    known = f"divided by spatial_scale={scale_text(call.spatial_scale)}" if call.cells is None else "times its stride"
    return (
        f"The image was not seen. It is taken to be {height} x {width} pixels (height x width): the size of the map "
        f"{known}. The figure cannot tell whether that is right."
    )


def _values_note(call: RoICall, place: int | None) -> str:
    """Why there are no values, or none of the operator's own."""
    height, width = call.map_size_hw
    if call.input.shape[1] and place is not None:
        if dict(call.further).get("mode") == "max":
            return 'Computed as roi_align does it by default; mode="max" gives other numbers.'
        pools = not function_of(call.operator).pools_as_roi_align
        return f"Computed as roi_align does it; {call.operator} gives other numbers." if pools else ""
    if not call.input.shape[1]:
        return "The values of the features were not kept for this call, so the result for a map of ones is shown."
    return (
        f"The values of the {height} x {width} map are left out to keep this page small; a map of ones is shown "
        "instead."
    )


def _channels(features_chw: Tensor) -> dict[str, Tensor]:
    """Up to three maps [H, W] by name: the mean, the channel that shows most, and the first."""
    number, cells = len(features_chw), features_chw[:1].numel()
    if not number or cells > MAX_CELLS_OF_ONE_CHANNEL:
        return {}
    features = features_chw.detach().cpu().float()
    if number == 1:
        return {"channel 0": features[0]}
    channels = {f"mean of all {number} channels": features.mean(0)}
    if cells > MAX_CELLS:
        return channels
    finite = features.isfinite().flatten(1).all(1)
    if bool(finite.all()):
        most = int(features.flatten(1).var(1, unbiased=False).argmax())
        channels[f"channel {most}, which varies most"] = features[most]
    else:
        most = int((~finite).nonzero()[0])
        channels[f"channel {most}, the first with NaN or infinity"] = features[most]
    if most != 0:
        channels["channel 0"] = features[0]
    return channels


def _base64(values: Tensor) -> str:
    return base64.b64encode(array.array("f", values.flatten().tolist()).tobytes()).decode()
