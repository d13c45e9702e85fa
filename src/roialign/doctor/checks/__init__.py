"""The doctor's checks: small pure functions, one for each code, in the order of their evidence."""

from __future__ import annotations

from collections.abc import Callable

from roialign.doctor.checks import (
    boxes,
    features,
    formats,
    layout,
    letterbox,
    levels,
    offset,
    photographs,
    rows,
    sampling,
    scale,
)
from roialign.doctor.evidence import Evidence
from roialign.doctor.findings import Finding

Check = Callable[[Evidence], Finding | None]

ROW_CHECKS = (rows.coordinates, rows.image_indices)
"""Of rows that no operator can sample: (call, coverage) -> Finding or None."""

PYRAMID_BOX_CHECK, PYRAMID_CHECK = levels.boxes_without_a_size, levels.fault
"""Of one run of a MultiScaleRoIAlign: (run, call) -> Finding or None."""

SEEN_CHECKS: tuple[Check, ...] = (features.pooled_before, features.other_tokens)
"""Of what the map was made of, as it was seen; features of other places or boxes tell nothing of these boxes."""

LAYOUT_CHECKS: tuple[Check, ...] = (layout.channels_last, layout.transposed, layout.tokens)
"""Of the axes of the map; where one finds a fault, the sizes that other checks go by mean nothing."""


def _of_a_map(check: Check) -> Check:
    return lambda known: None if layout.misread(known) else check(known)


CAUSE_CHECKS: tuple[Check, ...] = (
    *LAYOUT_CHECKS,
    *(
        _of_a_map(check)
        for check in (
            scale.normalised,
            formats.xywh,
            formats.cxcywh,
            scale.scaled_twice,
            letterbox.bars_left_out,
            boxes.y_first,
            photographs.of_the_photograph,
            scale.stride_for_inverse,
            scale.pixels_unscaled,
            scale.uneven_strides,
            scale.wrong_stride,
            scale.other_frame,
        )
    ),
)
"""Of one cause that misplaces all boxes, the surest first: (evidence) -> Finding or None."""

LAST_RESORT = scale.wrong_stride_by_boxes
"""Of a cause that is only concluded where no other fits: (evidence) -> Finding or None."""

BOX_CHECKS: tuple[Check, ...] = (
    boxes.degenerate,
    boxes.outside,
    offset.half_cell,
    sampling.smaller_than_a_cell,
    sampling.undersampled,
)
"""Of single boxes and how they are read, where no such cause was found: (evidence) -> Finding or None."""

FEATURE_CHECKS: tuple[Check, ...] = (
    boxes.rounded,
    boxes.fewer_lists,
    features.not_finite,
    features.zero,
    sampling.boxes_without_gradient,
    sampling.backward_not_deterministic,
)
"""Of the feature map and the program, whatever the boxes: (evidence) -> Finding or None."""
