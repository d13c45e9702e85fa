"""A folder to write an extraction to: locked, checked and prepared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roialign.errors import StoreError
from roialign.extraction.store.lock import locked
from roialign.extraction.store.manifest import Manifest, check
from roialign.extraction.store.parts import Parts


@contextmanager
def writing(folder: Path, manifest: Manifest) -> Iterator[Parts]:
    """The parts of an extraction in `folder`, which is locked for other runs until the block ends.

    A new folder gets the manifest; one of the same extraction is gone on with: `parts.missing()` are to do.

    Raises:
        StoreError: RA711, if another extraction is there; RA712, if another run writes there; RA713, if the disk is
            full; RA714, if the manifest that is there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = Parts(folder, manifest.schema, manifest.fingerprint, manifest.part_count)
    with locked(folder, manifest.command) as alone:
        there = Manifest.read(folder)
        if there is not None:
            check(there, manifest, folder)
        elif parts.present():
            raise StoreError(
                f"RA711: expected {folder} to be empty or of this extraction; got parts without a manifest, which may "
                "be of any. Choose another folder, or delete this one to begin anew."
            )
        else:
            manifest.write(folder)
        parts.prepare(alone)
        yield parts
