"""Examines the calls that are shown to it, at once or, on a GPU, when it is done with them."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from roialign.doctor.diagnose import examine
from roialign.doctor.evidence import Caller
from roialign.doctor.explanations import Beliefs
from roialign.doctor.facts import FactsOfMaps, FeatureFacts
from roialign.doctor.findings import Diagnosis
from roialign.doctor.images import Seen, SeenImages
from roialign.doctor.watch.later import WaitingCall, facts_of, waiting_call
from roialign.doctor.watch.post_mortem import post_mortem
from roialign.doctor.watch.sites import CallSites
from roialign.errors import RoIWarning
from roialign.geometry import FeatureGrid
from roialign.ops import later
from roialign.ops.calls import RoICall, unseen
from roialign.regions.pool import RegionsCall

Note = Callable[[Diagnosis], None]


class Examiner:
    """Gives `note` the diagnosis of each call, in the thread that made it or, if it had to wait, in a later one's."""

    def __init__(self, note: Note, images: SeenImages, sites: CallSites) -> None:
        self._note = note
        self._images = images
        self._sites = sites
        self._lock = threading.RLock()
        self._facts = FactsOfMaps()
        self._drawn: set[tuple[str, str]] = set()
        self._beliefs: dict[tuple[str, str, float], Beliefs] = {}  # levels of a pyramid may share a line
        self._waiting: deque[WaitingCall] = deque()

    def see(self, call: RoICall | RegionsCall, caller: Caller | None) -> None:
        """Look at a call that is about to be made."""
        site = self._sites.here()
        try:
            with unseen(), torch.no_grad():
                self._see(call, caller, site)
        except Exception as error:  # the program must run as it would
            _say_that_it_failed(error, site)

    def refuse(self, diagnosis: Diagnosis) -> None:
        """Note a call whose arguments are none that roialign would take."""
        self._note(diagnosis.at(self._sites.here()))

    def raised(self, error: Exception) -> None:
        """Look at the call in which the program raised, if it raised in one."""
        self.catch_up()
        try:
            with torch.no_grad(), unseen():
                diagnosis = post_mortem(error, self._sites)
        except Exception as other:
            _say_that_it_failed(other, "which the program raised")
            return
        if diagnosis is not None:
            self._note(diagnosis)

    def pooled(self, output: Tensor) -> None:
        """Note what an operator made."""
        self._images.pooled(output)

    def catch_up(self, wait: bool = True) -> None:
        """Examine the calls that waited: all of them, or those that need not wait any more."""
        with self._lock, unseen(), torch.no_grad():
            while self._waiting and (
                wait or len(self._waiting) > later.MOST_WAITING or self._waiting[0].arrival.is_ready()
            ):
                waited = self._waiting.popleft()
                try:
                    waited.arrival.wait()
                    self._examine_late(waited)
                except Exception as error:  # of the GPU, too, which tells of a fault at any later call
                    _say_that_it_failed(error, waited.call_site)

    def _see(self, call: RoICall | RegionsCall, caller: Caller | None, site: str) -> None:
        maps = [call.input] if isinstance(call, RoICall) else list(call.maps)
        if later.is_capturing(maps[0]):
            return
        if later.must_wait(maps[0]):
            seen = tuple(map(self._images.of, _for_each_map(call)))
            waiting = waiting_call(call, seen, caller, site)
            with self._lock:
                self._waiting.append(waiting)
            self.catch_up(wait=False)
        elif isinstance(call, RoICall):
            self._examine_now(call, None, caller, site)
        else:
            for level in call.levels.unique().tolist():
                if 0 <= level < len(call.maps):
                    self._examine_now(call.of_level(level), call.grid_of(level), caller, site)

    def _examine_now(self, call: RoICall, grid: FeatureGrid | None, caller: Caller | None, site: str) -> None:
        with self._lock:
            facts = self._facts.of(call.input)
        self._examine(call, self._images.of(call), grid, caller, site, facts)

    def _examine_late(self, waited: WaitingCall) -> None:
        call = waited.call
        if isinstance(call, RoICall):
            facts = facts_of(waited.maps[0])
            self._examine(call, waited.maps[0].seen, None, waited.caller, waited.call_site, facts, late=True)
            return
        for level in call.levels.unique().tolist():
            if 0 <= level < len(call.maps):
                held, site = waited.maps[level], waited.call_site
                of_level, facts = call.of_level(level), facts_of(held)
                self._examine(of_level, held.seen, call.grid_of(level), waited.caller, site, facts, late=True)

    def _examine(
        self,
        call: RoICall,
        seen: Seen,
        grid: FeatureGrid | None,
        caller: Caller | None,
        site: str,
        facts: FeatureFacts,
        late: bool = False,
    ) -> None:
        call = call.with_(input=call.input.detach(), rois=call.rois.detach().clone())
        image_size_hw: tuple[float, float] | None = seen.image_size_hw
        if image_size_hw is None and grid is not None:
            image_size_hw = grid.image_size_hw
        around = self._images.with_detections(seen, call)
        beliefs = self._beliefs.setdefault((site, call.operator, call.spatial_scale), Beliefs())
        diagnosis = examine(call, image_size_hw, grid or seen.grid, caller, around, facts, beliefs)
        picture = None if diagnosis.ok else _picture(seen.images, call)
        diagnosis = diagnosis.at(site, picture)
        problems = {(finding.code, site) for finding in diagnosis.findings}
        with self._lock:
            known = problems <= self._drawn
            self._drawn |= problems
        if late:
            diagnosis = diagnosis.without_features(keep_image=not known)
        elif known:  # a whole training may be watched: feature maps are kept for pictures only
            diagnosis = diagnosis.without_features()
        self._note(diagnosis)


def _say_that_it_failed(error: Exception, site: str) -> None:
    warnings.warn(
        f"roialign.watch could not examine the RoI call at {site}: {type(error).__name__}: {error}. The call itself "
        "still runs. Unless the program fails with the same error, this is a bug in roialign: please report it.",
        RoIWarning,
        stacklevel=3,
    )


def _for_each_map(call: RoICall | RegionsCall) -> list[RoICall]:
    """The call as it would be for each map, with all boxes, which may not be read."""
    if isinstance(call, RoICall):
        return [call]
    options = (call.output_size_hw, 1.0, call.sampling_ratio, True)
    return [RoICall(one, call.rois, *options, operator="pool_regions") for one in call.maps]


def _picture(images: Tensor | None, call: RoICall) -> Tensor | None:
    """The image [C, H, W] of the first RoI, kept for the report."""
    if images is None or not len(call.rois):
        return None
    index = call.rois[0, 0].item()
    return images[int(index)].clone() if 0 <= index < len(images) else images[0].clone()
