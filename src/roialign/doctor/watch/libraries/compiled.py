"""Calls of compiled and of scripted code, which reach the kernels without a Python function on the way.

A kernel in Python is put before torchvision's and roialign's own, for as long as someone looks; it shows the call and
passes it on to the kernel that it hides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.watch.libraries.shows import Shows, is_in_backward
from roialign.doctor.watch.libraries.torchvision import OPERATORS, as_roi_align
from roialign.geometry import FeatureGrid
from roialign.ops import operators
from roialign.ops.calls import is_unseen, unseen
from roialign.ops.overrides import Overrides, is_served, serving
from roialign.regions.pool import RegionsCall

_DEVICES = ("CPU", "CUDA")


class Kernels:
    """The doctor's kernels, each before the one that is used."""

    def __init__(self, shows: Shows) -> None:
        self._shows = shows
        self._put: dict[str, Overrides] = {}

    def put(self) -> None:
        """Show the calls that reach a kernel unseen."""
        self.put_before_torchvisions()
        # calls of roialign's other operators are shown by its functions alone; their outputs are looked at here
        looks: dict[str, Callable[..., None] | None] = dict.fromkeys((*operators.OPERATORS, operators.ROI_POOL.name))
        looks["roi_align"] = lambda *args: _roi_align_look(self._shows, *args)
        looks["multi_scale_roi_align"] = lambda *args: _regions_look(self._shows, *args)
        self._put_before("roialign", looks)

    def put_before_torchvisions(self) -> None:
        """The same for torchvision's operators alone, if they are there: when it was imported meanwhile."""
        if "torchvision" not in self._put and is_served("torchvision::roi_align", "CPU"):
            self._put_before("torchvision", {name: _torchvision_look(name, self._shows) for name in OPERATORS})

    def remove(self) -> None:
        """Show them no longer."""
        while self._put:
            self._put.popitem()[1].remove()

    def _put_before(self, namespace: str, looks: Mapping[str, Callable[..., None] | None]) -> None:
        overrides = self._put[namespace] = Overrides(namespace)
        for name, look in looks.items():
            for device in _DEVICES:
                operator = f"{namespace}::{name}"
                if is_served(operator, device):
                    overrides.put(name, device, _kernel(serving(operator, device), look, self._shows))


def _kernel(hidden: Any, look: Callable[..., None] | None, shows: Shows) -> Callable[..., Any]:
    def kernel(keys: Any, *args: Any) -> Any:
        if is_unseen() or is_in_backward() or torch.jit.is_tracing():
            return hidden.call_boxed(keys, *args)
        if look is not None and not shows.is_within:
            with unseen():
                look(*args)
        with shows.within():  # torchvision's kernels may be roialign's own
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
