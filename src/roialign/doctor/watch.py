"""Sees every RoI call that a program makes, whichever library makes it, and examines it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from roialign import errors
from roialign.doctor.diagnose import diagnose, examine
from roialign.doctor.evidence import Caller
from roialign.doctor.findings import Diagnosis, Report
from roialign.doctor.images import SeenImages
from roialign.ops import calls, notice
from roialign.ops.calls import RoICall
from roialign.ops.roi_align import as_call

_LIBRARIES = ("torchvision", "timm", "transformers", "detectron2", "mmcv", "mmdet", "torch", "roialign")
_ARGUMENTS = ("input", "boxes", "output_size", "spatial_scale", "sampling_ratio", "aligned")


@contextmanager
def watch() -> Iterator[Report]:
    """Examine every RoIAlign call made inside the block, through roialign or `torchvision.ops`.

    The program runs as it would without. Only where torchvision would crash the process (a NaN box, an
    empty map) an `RoIError` is raised in its place. Calls inside compiled, scripted or traced code are not
    seen.

    Yields:
        A `Report` that fills as calls are made; each finding has its `call_site`.

    Example:
        >>> import torch, roialign
        >>> with roialign.watch() as report, roialign.set_policy("ignore"):
        ...     _ = roialign.roi_align(torch.ones(1, 8, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)
        >>> [finding.code for finding in report.findings]
        ['RA101']
    """
    examined: list[Diagnosis] = []
    images = SeenImages()
    drawn: set[tuple[str, str]] = set()

    def observe(call: RoICall, caller: Caller | None = None) -> None:
        seen = images.of(call)
        with torch.no_grad():
            diagnosis = examine(call, seen.image_size_hw, seen.grid, caller)
        site = _call_site()
        problems = {(finding.code, site) for finding in diagnosis.findings}
        diagnosis = diagnosis.at(site, None if diagnosis.ok else _picture(seen.images, call))
        if problems <= drawn:  # a whole training may be watched: feature maps are kept for pictures only
            diagnosis = diagnosis.without_features()
        drawn.update(problems)
        examined.append(diagnosis)

    calls.observers.append(observe)
    try:
        with images.watching(), _watching_torchvision(observe, examined):
            yield Report(examined)
    finally:
        calls.observers.remove(observe)


def post_mortem(traceback: TracebackType | None) -> Diagnosis | None:
    """Diagnose the RoI call in which a program raised, if it raised in one, from the call's arguments."""
    site = found = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "roi_align" and all(name in frame.f_locals for name in _ARGUMENTS):
            found = {name: frame.f_locals[name] for name in _ARGUMENTS}
            break
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            site = f"{_shown(frame.f_code.co_filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    if found is None:
        return None
    diagnosis = diagnose(**found)
    return None if diagnosis.ok else diagnosis.at(site or "unknown")


class _WatchedOp:
    """Stands in for `torch.ops.torchvision.roi_align`, looks at the call, and passes it on.

    Every Python caller fetches the operator from this namespace at each call: torchvision's function,
    module, MultiScaleRoIAlign and detection models, and detectron2. To the JIT it is the operator itself.
    """

    def __init__(self, look: Callable[..., None], operator: Any) -> None:
        self._look = look
        self._operator = operator  # None until torchvision is imported and the operator is used

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._operator is None:
            self._fetch()
        eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        if eager and not kwargs and args and type(args[0]) in (Tensor, nn.Parameter):
            self._look(*args)
        return self._operator(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if self._operator is None:
            self._fetch()
        return getattr(self._operator, name)

    def _fetch(self) -> None:
        namespace = torch.ops.torchvision
        self._operator = type(namespace).__getattr__(namespace, "roi_align")  # which puts itself into the namespace
        namespace.__dict__["roi_align"] = self


@contextmanager
def _watching_torchvision(observe: Callable[[RoICall, Caller], None], examined: list[Diagnosis]) -> Iterator[None]:
    def look(
        input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
    ) -> None:
        arguments = (input, rois, (height, width), spatial_scale, sampling_ratio, aligned)
        try:
            call = as_call(*arguments)
        except errors.RoIError as error:
            examined.append(diagnose(*arguments).at(_call_site()))
            if input.dim() == 4 and 0 in input.shape[2:]:
                raise error
            return
        observe(call, Caller.of("torchvision", input, rois))
        if sampling_ratio > 0 and not bool(torch.isfinite(rois).all()):
            raise errors.BoxesValueError(
                f"RA205: stopped by roialign: {examined[-1].findings[0].evidence} torchvision would crash the "
                "process in this call."
            )

    namespace = torch.ops.torchvision
    before = namespace.__dict__.get("roi_align")
    watched = _WatchedOp(look, before)
    namespace.__dict__["roi_align"] = watched
    torch.jit._builtins._register_builtin(watched, "torchvision::roi_align")
    try:
        yield
    finally:
        del namespace.__dict__["roi_align"]
        if before is not None:
            namespace.__dict__["roi_align"] = before


def _call_site() -> str:
    frame = notice.calling_frame(_LIBRARIES)
    return f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno}"


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _picture(images: Tensor | None, call: RoICall) -> Tensor | None:
    """The image [C, H, W] of the first RoI, kept for the report."""
    if images is None or not len(call.rois):
        return None
    index = call.rois[0, 0].item()
    return images[int(index)].clone() if 0 <= index < len(images) else images[0].clone()
