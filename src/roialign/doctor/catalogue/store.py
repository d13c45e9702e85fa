"""RA711 to RA715: the folder that an extraction fills."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import Entry

_STORE = """\
import tempfile
from dataclasses import replace
from pathlib import Path
from roialign.extraction.store import reading
from roialign.extraction.store.manifest import Manifest
from roialign.extraction.store.rows import RowSchema
from roialign.extraction.store.writing import writing
manifest = Manifest(RowSchema((256,), "float16"), {}, {}, {}, {"output_size": 7}, "", "", image_count=1000)
folder = Path(tempfile.mkdtemp())
with writing(folder, manifest):
    pass  # an extraction to this folder"""

ENTRIES = (
    Entry(
        "RA711",
        "another extraction in the folder",
        "error",
        "The folder holds regions of another extraction: of other weights, images, boxes or options, whose rows would "
        "stand beside the new ones as if they were alike. Each entry of its manifest that differs is named, as it is "
        "there and as it is asked for.",
        "Choose another folder; or ask for what is there, to go on with it; or delete the folder to begin anew.",
        _STORE,
        'with writing(folder, replace(manifest, options={"output_size": 14})): pass',
        "with writing(folder, manifest): pass",
        raised=True,
    ),
    Entry(
        "RA712",
        "another run in the folder",
        "error",
        "One run writes to a folder at a time. The lock is the operating system's, which lifts it when the process "
        "ends: the run that is named is alive, or its host has only just gone from a network file system.",
        "Wait for that run or stop it; or choose another folder.",
        _STORE,
        "with writing(folder, manifest), writing(folder, manifest): pass",
        "with writing(folder, manifest): pass",
        raised=True,
    ),
    Entry(
        "RA713",
        "no room for the next part",
        "error",
        "The disk is full, or the quota is used up. The parts that are written are whole, and nothing half written is "
        "left beside them.",
        "Make room and run the same command again: it goes on with the parts that are missing. float16 takes half the "
        "room of float32, and a mean over the bins a small part of all of them.",
        f"import errno\nfrom roialign.extraction.store import files\n{_STORE}",
        "with files.room_in(folder, str): raise OSError(errno.ENOSPC, 'No space left on device')",
        "with files.room_in(folder, str): pass",
        raised=True,
    ),
    Entry(
        "RA714",
        "not what an extraction wrote",
        "error",
        "The folder has no manifest, or one that was edited; or a part is damaged, of another extraction, or of rows "
        "that are not as the manifest says.",
        "Delete a part that is damaged and run the extraction again, which makes that part anew. Put back a manifest "
        "that was edited.",
        _STORE,
        "reading.open(folder.parent)",
        "reading.open(folder)",
        raised=True,
    ),
    Entry(
        "RA715",
        "a region that the store does not have",
        "error",
        "There is no row of this number, of these ids, or no column of this name. A box that could not be pooled has "
        "no row, and a store whose run is not finished has those of the parts that are there.",
        "Look into of_image(image_id), columns and errors().",
        f"{_STORE}\nregions = reading.open(folder)",
        'regions.row("street/0001.jpg", "17")',
        'regions.of_image("street/0001.jpg").box_ids',
        raised=True,
    ),
)
