"""What an RoI operator accepts, and what it says of everything else.

Shapes and types are looked at before every call. Values (finite coordinates, image indices) are looked
at by the kernels as they read them; `check_values` then finds the words.
"""

from roialign.ops.validate.boxes import BOXES as BOXES
from roialign.ops.validate.boxes import BOXES_3D as BOXES_3D
from roialign.ops.validate.boxes import ROTATED as ROTATED
from roialign.ops.validate.boxes import SEGMENTS as SEGMENTS
from roialign.ops.validate.boxes import BoxForm as BoxForm
from roialign.ops.validate.boxes import as_rois as as_rois
from roialign.ops.validate.maps import check_features as check_features
from roialign.ops.validate.maps import check_input as check_input
from roialign.ops.validate.maps import check_local as check_local
from roialign.ops.validate.maps import check_maps as check_maps
from roialign.ops.validate.maps import check_own_channels as check_own_channels
from roialign.ops.validate.maps import compute_dtype as compute_dtype
from roialign.ops.validate.masks import as_masks as as_masks
from roialign.ops.validate.masks import as_pasting as as_pasting
from roialign.ops.validate.masks import check_operator_masks as check_operator_masks
from roialign.ops.validate.masks import check_pasting as check_pasting
from roialign.ops.validate.operators import check_operator as check_operator
from roialign.ops.validate.options import MAX_SAMPLING_RATIO as MAX_SAMPLING_RATIO
from roialign.ops.validate.options import check_aligned as check_aligned
from roialign.ops.validate.options import check_options as check_options
from roialign.ops.validate.options import check_ratio as check_ratio
from roialign.ops.validate.options import check_scale as check_scale
from roialign.ops.validate.options import is_flag as is_flag
from roialign.ops.validate.options import is_side as is_side
from roialign.ops.validate.values import MAX_ADAPTIVE_GRID as MAX_ADAPTIVE_GRID
from roialign.ops.validate.values import MAX_MASKED_GRID as MAX_MASKED_GRID
from roialign.ops.validate.values import MAX_ROUNDED_CELL as MAX_ROUNDED_CELL
from roialign.ops.validate.values import can_be_sampled as can_be_sampled
from roialign.ops.validate.values import check_levels as check_levels
from roialign.ops.validate.values import check_rows as check_rows
from roialign.ops.validate.values import usable_indices as usable_indices
from roialign.ops.validate.words import describe as describe
from roialign.ops.validate.words import is_dense as is_dense
from roialign.ops.validate.words import is_distributed as is_distributed
from roialign.ops.validate.words import row_text as row_text
