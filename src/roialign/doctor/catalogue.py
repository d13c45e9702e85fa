"""The RA codes: what each means, an example, and the fix.

`roialign explain`, the reports and the page of codes in the docs are made from this table. A code, once
published, keeps its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One code of the catalogue."""

    code: str
    title: str
    severity: Literal["error", "warning"]
    meaning: str
    example: str
    """The faulty call and, after it, the right one; runs with `features` and `boxes` at hand."""
    fix: str


_ENTRIES = (
    Entry(
        "RA101",
        "boxes in image pixels, spatial_scale left at 1",
        "error",
        "The boxes are in pixels of the image, but the feature map has one cell for every `stride` pixels. With "
        "spatial_scale=1.0 pixel 300 is read at cell 300 of a map that may have only 64: beyond the map every "
        "sample is zero, so the RoI is zero.",
        "roi_align(features, boxes, 7)                             # zeros: box at (300, 300), map of 64 x 64\n"
        "roi_align(features, boxes, 7, spatial_scale=1 / 16)       # stride 16",
        "Pass spatial_scale=1 / stride, where stride is the product of the strides of all down-sampling layers "
        "between the image and this map; or divide the boxes by it.",
    ),
)

CATALOGUE = {entry.code: entry for entry in _ENTRIES}
