"""The RoI operators: validate, then the registered operator, then the notice."""

from roialign.ops.masked_roi_align import MaskedRoIAlign as MaskedRoIAlign
from roialign.ops.masked_roi_align import masked_roi_align as masked_roi_align
from roialign.ops.paste_masks import paste_masks as paste_masks
from roialign.ops.roi_align import RoIAlign as RoIAlign
from roialign.ops.roi_align import roi_align as roi_align
from roialign.ops.roi_align_rotated import RoIAlignRotated as RoIAlignRotated
from roialign.ops.roi_align_rotated import roi_align_rotated as roi_align_rotated
