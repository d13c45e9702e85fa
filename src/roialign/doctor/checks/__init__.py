"""The doctor's checks: small pure functions, one for each code, in the order of their evidence."""

from roialign.doctor.checks import boxes, features, rows, scale

ROW_CHECKS = (rows.coordinates, rows.image_indices)
"""Of rows that no operator can sample: (call, coverage) -> Finding or None."""

CAUSE_CHECKS = (
    scale.normalised,
    boxes.xywh,
    boxes.y_first,
    scale.stride_for_inverse,
    scale.pixels_unscaled,
    scale.uneven_strides,
    scale.scaled_twice,
    scale.wrong_stride,
    scale.other_frame,
)
"""Of one cause that misplaces all boxes, the surest first: (evidence) -> Finding or None."""

LAST_RESORT = scale.wrong_stride_by_boxes
"""Of a cause that is only concluded where no other fits: (evidence) -> Finding or None."""

BOX_CHECKS = (boxes.degenerate, boxes.outside)
"""Of single boxes, where no such cause was found: (evidence) -> Finding or None."""

FEATURE_CHECKS = (features.not_finite, features.zero)
"""Of the feature map, whatever the boxes: (evidence) -> Finding or None."""
