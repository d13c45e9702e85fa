"""Calls of compiled and of scripted code, which reach the kernels without a Python function on the way.

A kernel in Python is put before torchvision's and roialign's own, for as long as someone looks; it shows the call and
passes it on to the kernel that it hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.watch.libraries.shows import Shows, is_in_backward
from roialign.doctor.watch.libraries.torchvision import OPERATORS, as_roi_align
from roialign.geometry import FeatureGrid
from roialign.ops import operators
from roialign.ops.calls import is_unseen, unseen
from roialign.regions.pool import RegionsCall

_DEVICES = ("CPU", "CUDA")


@contextmanager
def watched(shows: Shows) -> Iterator[Callable[[], None]]:
    """Show the calls that reach a kernel unseen; gives what to call when torchvision was imported meanwhile."""
    if not hasattr(torch.library, "get_kernel"):  # an older torch has no way to the kernel that would be hidden
        yield lambda: None
        return
    libraries: dict[str, Any] = {}

    def torchvision_is_there() -> None:
        if "torchvision" not in libraries:
            looks = {name: _torchvision_look(name, shows) for name in OPERATORS}
            libraries["torchvision"] = _before_kernels("torchvision", looks, shows)

    if _has("torchvision::roi_align", "CPU"):
        torchvision_is_there()
    # calls of roialign's other operators are shown by its functions alone; their outputs are looked at here
    looks: dict[str, Callable[..., None] | None] = dict.fromkeys((*operators.OPERATORS, operators.ROI_POOL.name))
    looks["roi_align"] = lambda *args: _roi_align_look(shows, *args)
    looks["multi_scale_roi_align"] = lambda *args: _regions_look(shows, *args)
    libraries["roialign"] = _before_kernels("roialign", looks, shows)
    try:
        yield torchvision_is_there
    finally:
        for library in libraries.values():
            library._destroy()


def _has(operator: str, device: str) -> bool:
    try:
        torch.library.get_kernel(operator, device)
    except RuntimeError:
        return False
    return True


def _before_kernels(namespace: str, looks: Mapping[str, Callable[..., None] | None], shows: Shows) -> Any:
    library = torch.library.Library(namespace, "IMPL")
    for name, look in looks.items():
        for device in _DEVICES:
            if _has(f"{namespace}::{name}", device):
                kernel = _kernel(torch.library.get_kernel(f"{namespace}::{name}", device), look, shows)
                library.impl(name, kernel, device, with_keyset=True, allow_override=True)
    return library


def _kernel(hidden: Any, look: Callable[..., None] | None, shows: Shows) -> Callable[..., Any]:
    def kernel(keys: Any, *args: Any) -> Any:
        if is_unseen() or is_in_backward() or torch.jit.is_tracing():
            return hidden.call_boxed(keys, *args)
        if look is not None and not shows.is_within:
            with unseen():
                look(*args)
        output = hidden.call_boxed(keys, *args)
        shows.pooled(output[0] if isinstance(output, (tuple, list)) else output)
        return output

    return kernel


def _torchvision_look(name: str, shows: Shows) -> Callable[..., None]:
    def look(*args: Any) -> None:
        arguments = as_roi_align(name, args, {})
        if arguments is not None:
            shows.call(name, "torchvision", arguments)

    return look


def _roi_align_look(shows: Shows, input: Tensor, rois: Tensor, height: int, width: int, *options: Any) -> None:
    if not shows.is_own(rois):
        shows.call("roi_align", "roialign", (input, rois, (height, width), *options))


def _regions_look(
    shows: Shows,
    maps: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: list[float],
    height: int,
    width: int,
    ratio: int,
    widen: bool,
) -> None:
    if shows.is_own(rois) or widen:
        return
    grids = []
    for place, one in enumerate(maps):
        scale_y, shift_y, scale_x, shift_x = cells[4 * place : 4 * place + 4]
        offset_yx = (shift_y / scale_y, shift_x / scale_x)
        grids.append(FeatureGrid((one.shape[2], one.shape[3]), (1 / scale_y, 1 / scale_x), offset_yx))
    shows.region_call(RegionsCall(maps, rois, levels, grids, (height, width), ratio))
