"""Calls on a GPU: what is needed of them is copied while it works, and examined when it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roialign.doctor.evidence import Caller
from roialign.doctor.facts import DeviceFacts, FeatureFacts
from roialign.doctor.images import Seen
from roialign.ops.calls import RoICall
from roialign.regions.pool import RegionsCall

MOST_WAITING = 256
"""Calls that may wait for their GPU; beyond, the oldest, which has long been done, is waited for."""


@dataclass(frozen=True)
class LevelCall:
    """One map of a call that waits, and what is known of it."""

    seen: Seen
    facts: DeviceFacts


@dataclass(frozen=True)
class WaitingCall:
    """A call whose numbers are on their way from the GPU. Nothing here waits for them but `wait`."""

    call: RoICall | RegionsCall
    maps: tuple[LevelCall, ...]
    caller: Caller | None
    call_site: str
    event: torch.cuda.Event | None

    def is_ready(self) -> bool:
        """Whether all numbers have arrived; does not wait."""
        return self.event is not None and self.event.query()

    def wait(self) -> None:
        """Wait until all numbers have arrived."""
        if self.event is not None:
            self.event.synchronize()


def must_wait(features: Tensor) -> bool:
    """Whether reading a number of these features would stop the program until its GPU is done."""
    return features.is_cuda


def is_capturing(features: Tensor) -> bool:
    """Whether the call is being recorded for a CUDA graph, of which nothing else may become a part."""
    return features.is_cuda and torch.cuda.is_current_stream_capturing()


def waiting_call(
    call: RoICall | RegionsCall, seen: tuple[Seen, ...], caller: Caller | None, call_site: str
) -> WaitingCall:
    """Start the copies of what the checks need."""
    maps = (call.input,) if isinstance(call, RoICall) else tuple(call.maps)
    facts = [DeviceFacts.of(one) for one in maps]
    levels = tuple(
        LevelCall(one, DeviceFacts(*(_to_host(value) for value in (f.not_finite, f.not_finite_cells, f.live_cells))))
        for one, f in zip(seen, facts, strict=True)
    )
    held: RoICall | RegionsCall
    if isinstance(call, RoICall):
        held = call.with_(input=_shape_of(call.input), rois=_to_host(call.rois))
    else:
        shapes = tuple(map(_shape_of, call.maps))
        held = replace(call, maps=shapes, rois=_to_host(call.rois), levels=_to_host(call.levels))
    event = None
    if maps[0].is_cuda:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(maps[0].device))
    return WaitingCall(held, levels, caller, call_site, event)


def facts_of(level: LevelCall) -> FeatureFacts:
    """What was found on the GPU, once it has arrived."""
    return level.facts.read()


def _to_host(value: Tensor) -> Tensor:
    value = value.detach()
    return value.clone() if value.device.type == "cpu" else value.to("cpu", non_blocking=True)


def _shape_of(features: Tensor) -> Tensor:
    """A tensor of this shape and type without memory of its own."""
    return torch.zeros((), dtype=features.dtype, device="cpu").expand(features.shape)
