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
from roialign.ops.reference.prroi_pool import prroi_pool as prroi_pool
from roialign.ops.reference.prroi_pool import prroi_pool_backward as prroi_pool_backward
from roialign.ops.reference.prroi_pool import prroi_pool_backward_boxes as prroi_pool_backward_boxes
from roialign.ops.reference.ps_roi_align import ps_roi_align as ps_roi_align
from roialign.ops.reference.ps_roi_align import ps_roi_align_backward as ps_roi_align_backward
from roialign.ops.reference.ps_roi_align import ps_roi_align_backward_boxes as ps_roi_align_backward_boxes
from roialign.ops.reference.ps_roi_pool import ps_roi_pool as ps_roi_pool
from roialign.ops.reference.ps_roi_pool import ps_roi_pool_backward as ps_roi_pool_backward
from roialign.ops.reference.roi_align import roi_align as roi_align
from roialign.ops.reference.roi_align import roi_align_backward as roi_align_backward
from roialign.ops.reference.roi_align import roi_align_backward_boxes as roi_align_backward_boxes
from roialign.ops.reference.roi_align_3d import roi_align_3d as roi_align_3d
from roialign.ops.reference.roi_align_3d import roi_align_3d_backward as roi_align_3d_backward
from roialign.ops.reference.roi_align_3d import roi_align_3d_backward_boxes as roi_align_3d_backward_boxes
from roialign.ops.reference.roi_align_max import roi_align_max as roi_align_max
from roialign.ops.reference.roi_align_max import roi_align_max_backward as roi_align_max_backward
from roialign.ops.reference.roi_align_max import roi_align_max_backward_boxes as roi_align_max_backward_boxes
from roialign.ops.reference.roi_align_rotated import roi_align_rotated as roi_align_rotated
from roialign.ops.reference.roi_align_rotated import roi_align_rotated_backward as roi_align_rotated_backward
from roialign.ops.reference.roi_align_rotated import (
    roi_align_rotated_backward_boxes as roi_align_rotated_backward_boxes,
)
from roialign.ops.reference.roi_pool import roi_pool as roi_pool
from roialign.ops.reference.roi_pool import roi_pool_backward as roi_pool_backward
