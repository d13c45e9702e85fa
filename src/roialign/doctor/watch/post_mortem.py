"""What is wrong with the RoI call in which a program raised."""

from __future__ import annotations

from types import TracebackType

from roialign.doctor.diagnose import diagnose
from roialign.doctor.findings import Diagnosis
from roialign.doctor.watch.sites import LIBRARIES, CallSites

_ARGUMENTS = ("input", "boxes", "output_size", "spatial_scale", "sampling_ratio", "aligned")


def post_mortem(traceback: TracebackType | None, sites: CallSites | None = None) -> Diagnosis | None:
    """Diagnose the RoI call in which a program raised, if it raised in one, from the call's arguments."""
    sites = sites or CallSites()
    site = found = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "roi_align" and all(name in frame.f_locals for name in _ARGUMENTS):
            found = {name: frame.f_locals[name] for name in _ARGUMENTS}
            break
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES:
            site = sites.named(frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    if found is None:
        return None
    diagnosis = diagnose(**found)
    return None if diagnosis.ok else diagnosis.at(site or "unknown")
