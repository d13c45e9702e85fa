"""Readable pure-PyTorch definitions of the operators: the specification of the kernels."""

from roialign.ops.reference.masked_roi_align import masked_roi_align as masked_roi_align
from roialign.ops.reference.masked_roi_align import masked_roi_align_backward as masked_roi_align_backward
from roialign.ops.reference.masked_roi_align import masked_roi_align_backward_boxes as masked_roi_align_backward_boxes
from roialign.ops.reference.multi_scale_roi_align import multi_scale_roi_align as multi_scale_roi_align
from roialign.ops.reference.multi_scale_roi_align import (
    multi_scale_roi_align_backward as multi_scale_roi_align_backward,
)
from roialign.ops.reference.multi_scale_roi_align import (
    multi_scale_roi_align_backward_boxes as multi_scale_roi_align_backward_boxes,
)
from roialign.ops.reference.paste_masks import paste_masks as paste_masks
from roialign.ops.reference.paste_masks import paste_masks_backward as paste_masks_backward
from roialign.ops.reference.roi_align import roi_align as roi_align
from roialign.ops.reference.roi_align import roi_align_backward as roi_align_backward
from roialign.ops.reference.roi_align import roi_align_backward_boxes as roi_align_backward_boxes
from roialign.ops.reference.roi_align_rotated import roi_align_rotated as roi_align_rotated
from roialign.ops.reference.roi_align_rotated import roi_align_rotated_backward as roi_align_rotated_backward
from roialign.ops.reference.roi_align_rotated import (
    roi_align_rotated_backward_boxes as roi_align_rotated_backward_boxes,
)
