"""The RA codes: what each means, an example, and the fix.

`roialign explain`, the reports and the page of codes in the docs are made from this table, of which each module
holds one family. A code, once published, keeps its meaning.
"""

from __future__ import annotations

from roialign.doctor.catalogue import boxes, collections, export, features, frames, levels, sampling, store
from roialign.doctor.catalogue.entry import Entry as Entry

_FAMILIES = (
    *(frames.ENTRIES, boxes.ENTRIES, features.ENTRIES, levels.ENTRIES, sampling.ENTRIES, export.ENTRIES),
    *(collections.ENTRIES, store.ENTRIES),
)

CATALOGUE = {entry.code: entry for family in _FAMILIES for entry in family}
