"""The doctor's checks: small pure functions, one for each code, in the order of their evidence."""

from __future__ import annotations

from collections.abc import Callable

from roialign.doctor.checks import (
    boxes,
    features,
    layout,
    levels,
    offset,
    padding,
    rows,
    sampling,
)
from roialign.doctor.evidence import Evidence
from roialign.doctor.findings import Finding

Check = Callable[[Evidence], Finding | None]

ROW_CHECKS = (rows.coordinates, rows.image_indices)
"""Of rows that no operator can sample: (call, coverage) -> Finding or None."""

PYRAMID_BOX_CHECK, PYRAMID_CHECK = levels.boxes_without_a_size, levels.fault
"""Of one run of a MultiScaleRoIAlign: (run, call) -> Finding or None."""

SEEN_CHECKS: tuple[Check, ...] = (
    features.pooled_before,
    features.other_tokens,
    features.scrambled,
    layout.channels_last,
    layout.transposed,
    layout.tokens,
)
"""Of what the map was made of and what its axes are; where it is no map of the image, boxes tell nothing."""

BOX_CHECKS: tuple[Check, ...] = (boxes.degenerate, boxes.outside)
"""Of where single boxes lie, where nothing explains all of them: (evidence) -> Finding or None."""

READ_CHECKS: tuple[Check, ...] = (offset.half_cell, sampling.smaller_than_a_cell, sampling.undersampled)
"""Of how boxes are read where they lie: (evidence) -> Finding or None."""

FEATURE_CHECKS: tuple[Check, ...] = (
    boxes.rounded,
    boxes.fewer_lists,
    features.not_finite,
    features.zero,
    padding.reaches,
    sampling.boxes_without_gradient,
    sampling.backward_not_deterministic,
)
"""Of the feature map and the program, whatever the boxes: (evidence) -> Finding or None."""
