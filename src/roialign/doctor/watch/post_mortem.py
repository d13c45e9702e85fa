"""What is wrong with the RoI call in which a program raised."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.diagnose import diagnose
from roialign.doctor.evidence import call_line, mean
from roialign.doctor.findings import Diagnosis, Finding, Fix
from roialign.doctor.watch.sites import LIBRARIES, CallSites
from roialign.errors import RoIError
from roialign.ops.calls import RoICall
from roialign.ops.roi_align import as_call

_FUNCTIONS = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
_NEEDED = ("input", "boxes", "output_size", "spatial_scale")
_OPTIONS = ("sampling_ratio", "aligned")
_SHOWS_CALLS = ("roialign.ops.perform", "roialign.doctor.watch.libraries.torchvision")
"""Modules in which a call has come as far as to those who look at calls."""
_PLACE_IN_C = re.compile(r"^.*\.(cpp|cu|h):\d+,? *")


def post_mortem(error: BaseException | None, sites: CallSites | None = None) -> Diagnosis | None:
    """Diagnose the RoI call in which a program raised, if it raised in one, from the call's arguments.

    Of a call that was shown to those who look at calls before it raised, only what the error itself tells is said.
    """
    sites, site = sites or CallSites(), "unknown"
    frames = _frames(error.__traceback__ if error else None)
    found = pooler = None
    for frame, line in frames:
        found, pooler = _arguments(frame), _pooler_without_maps(frame)
        if found or pooler:
            break
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES:
            site = sites.named(frame.f_code.co_filename, line)
    if pooler is not None:
        return Diagnosis((pooler,), None, pooler.fix.call if pooler.fix else None).at(site)
    if found is None or error is None:
        return None
    was_shown = any(below.f_globals.get("__name__") in _SHOWS_CALLS for below, _ in frames)
    diagnosis = Diagnosis((), None, times=0) if was_shown else diagnose(**found)
    if diagnosis.ok and (refused := _refused_by_torchvision(error, frame, found)):
        diagnosis = replace(diagnosis, findings=(refused,))
    return None if diagnosis.ok else diagnosis.at(site)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _arguments(frame: FrameType) -> dict[str, Any] | None:
    """The arguments of `roi_align`, where it is the frame of one of the operators' functions."""
    if frame.f_code.co_name not in _FUNCTIONS or not all(name in frame.f_locals for name in _NEEDED):
        return None
    return {name: frame.f_locals[name] for name in (*_NEEDED, *_OPTIONS) if name in frame.f_locals}


def _pooler_without_maps(frame: FrameType) -> Finding | None:
    """RA401, where it is the frame of a MultiScaleRoIAlign that is given no map of a name that it knows."""
    pooler, maps = frame.f_locals.get("self"), frame.f_locals.get("x")
    names = getattr(pooler, "featmap_names", None)
    if frame.f_code.co_name != "forward" or names is None or not isinstance(maps, dict) or set(names) & set(maps):
        return None
    given = {name: one for name, one in maps.items() if isinstance(one, Tensor) and one.dim() == 4}
    listed = [f'"{name}" ({one.shape[2]} x {one.shape[3]})' for name, one in given.items()]
    evidence = (
        f"MultiScaleRoIAlign is made for maps named {', '.join(map(repr, names))}, and is given "
        f"{', '.join(listed) or 'none'}. It takes only maps whose names it knows, so none is left to pool from."
    )
    fine_first = sorted(given, key=lambda name: -given[name].shape[2] * given[name].shape[3])
    quoted = ", ".join(f'"{name}"' for name in fine_first)
    decide = "Or let the backbone return its maps under the names that the pooler knows."
    return Finding("RA401", evidence, fix=_with_names(frame, quoted, given, fine_first), decide=decide)


def _with_names(frame: FrameType, quoted: str, given: dict[Any, Tensor], fine_first: list[Any]) -> Fix | None:
    """A pooler that knows the maps it is given, proven by pooling from the finest."""
    pooler, boxes, sizes = (frame.f_locals.get(name) for name in ("self", "boxes", "image_shapes"))
    if not fine_first or not sizes or pooler is None:
        return None
    finest, (height, width) = given[fine_first[0]], pooler.output_size
    scale = 2.0 ** round(math.log2(finest.shape[2] / max(size[0] for size in sizes)))
    try:
        call = as_call(finest, boxes, pooler.output_size, scale, pooler.sampling_ratio, False)
    except RoIError:
        return None
    size = f"{height}" if height == width else f"({height}, {width})"
    code = f"MultiScaleRoIAlign(featmap_names=[{quoted}], output_size={size}, sampling_ratio={pooler.sampling_ratio})"
    return Fix("featmap_names", None, code, 0.0, mean(call.coverage()), call.without_features())


def _refused_by_torchvision(error: BaseException, frame: FrameType, found: dict[str, Any]) -> Finding | None:
    """RA505, of types for which torchvision has no kernel, though nothing else is wrong with them."""
    if not isinstance(error, RuntimeError) or not frame.f_globals.get("__name__", "").startswith("torchvision."):
        return None
    try:
        call = as_call(**({"sampling_ratio": -1, "aligned": False} | found)).with_(operator=frame.f_code.co_name)
    except RoIError:
        return None
    types = {call.input.dtype, call.boxes_dtype}
    if not types & {torch.float16, torch.bfloat16}:
        return None
    features, boxes = (str(kind).removeprefix("torch.") for kind in (call.input.dtype, call.boxes_dtype))
    said = _PLACE_IN_C.sub("", str(error).partition("\n")[0])
    evidence = (
        f"torchvision raised {type(error).__name__}: {said.rstrip('.')}. It has no kernel for {features} "
        f"features with {boxes} boxes on {call.input.device.type}."
    )
    return Finding("RA505", evidence, tuple(range(len(call.rois))), _in_float32(call), decide=_or_roialign(call))


def _in_float32(call: RoICall) -> Fix:
    boxes = "[b.float() for b in boxes]" if call.boxes_form == "list" else "boxes.float()"
    code = call_line(call).replace("features, boxes", f"features.float(), {boxes}", 1)
    coverage = mean(call.coverage())
    return Fix("input", None, code, coverage, coverage, call.with_(input=call.input.detach().float()))


def _or_roialign(call: RoICall) -> str:
    return (
        f"roialign.{call.operator} takes half features with float32 boxes and sums in float32. Keep boxes in float32 "
        "from the start."
    )
