"""The RoI operators: validate, then the registered operator, then the notice."""

from roialign.ops import backends as backends  # which loads them
from roialign.ops.crop_and_resize import crop_and_resize as crop_and_resize
from roialign.ops.masked_roi_align import MaskedRoIAlign as MaskedRoIAlign
from roialign.ops.masked_roi_align import masked_roi_align as masked_roi_align
from roialign.ops.paste_masks import paste_masks as paste_masks
from roialign.ops.prroi_pool import PrRoIPool as PrRoIPool
from roialign.ops.prroi_pool import prroi_pool as prroi_pool
from roialign.ops.ps_roi_align import PSRoIAlign as PSRoIAlign
from roialign.ops.ps_roi_align import ps_roi_align as ps_roi_align
from roialign.ops.ps_roi_pool import PSRoIPool as PSRoIPool
from roialign.ops.ps_roi_pool import ps_roi_pool as ps_roi_pool
from roialign.ops.roi_align import RoIAlign as RoIAlign
from roialign.ops.roi_align import roi_align as roi_align
from roialign.ops.roi_align_1d import RoIAlign1d as RoIAlign1d
from roialign.ops.roi_align_1d import roi_align_1d as roi_align_1d
from roialign.ops.roi_align_3d import RoIAlign3d as RoIAlign3d
from roialign.ops.roi_align_3d import roi_align_3d as roi_align_3d
from roialign.ops.roi_align_rotated import RoIAlignRotated as RoIAlignRotated
from roialign.ops.roi_align_rotated import roi_align_rotated as roi_align_rotated
from roialign.ops.roi_pool import RoIPool as RoIPool
from roialign.ops.roi_pool import roi_pool as roi_pool
