"""Calls on a GPU: what is needed of them is copied while it works, and examined when it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from roialign.doctor.evidence import Caller
from roialign.doctor.facts import DeviceFacts, FeatureFacts
from roialign.doctor.images import Seen
from roialign.ops.calls import RoICall
from roialign.ops.later import Arrival, shape_of, to_host
from roialign.regions.pool import RegionsCall


@dataclass(frozen=True)
class LevelCall:
    """One map of a call that waits, and what is known of it."""

    seen: Seen
    facts: DeviceFacts


@dataclass(frozen=True)
class WaitingCall:
    """A call whose numbers are on their way from the GPU. `arrival` says when they are here."""

    call: RoICall | RegionsCall
    maps: tuple[LevelCall, ...]
    caller: Caller | None
    call_site: str
    arrival: Arrival


def waiting_call(
    call: RoICall | RegionsCall, seen: tuple[Seen, ...], caller: Caller | None, call_site: str
) -> WaitingCall:
    """Start the copies of what the checks need."""
    maps = (call.input,) if isinstance(call, RoICall) else tuple(call.maps)
    facts = [DeviceFacts.of(one) for one in maps]
    levels = tuple(
        LevelCall(one, DeviceFacts(*(to_host(value) for value in (f.not_finite, f.not_finite_cells, f.live_cells))))
        for one, f in zip(seen, facts, strict=True)
    )
    held: RoICall | RegionsCall
    if isinstance(call, RoICall):
        held = call.with_(input=shape_of(call.input), rois=to_host(call.rois))
    else:
        shapes = tuple(map(shape_of, call.maps))
        held = replace(call, maps=shapes, rois=to_host(call.rois), levels=to_host(call.levels))
    return WaitingCall(held, levels, caller, call_site, Arrival.after(maps[0]))


def facts_of(level: LevelCall) -> FeatureFacts:
    """What was found on the GPU, once it has arrived."""
    return level.facts.read()
