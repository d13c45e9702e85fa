"""The operators as torch.library knows them: one file for each, with schema, reference, fake and autograd."""

from roialign.ops.registered import (
    masked_roi_align,
    multi_scale_roi_align,
    paste_masks,
    prroi_pool,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_3d,
    roi_align_max,
    roi_align_rotated,
    roi_pool,
)

SCHEMAS = {
    **roi_align.SCHEMAS,
    **multi_scale_roi_align.SCHEMAS,
    **roi_pool.SCHEMAS,
    **ps_roi_align.SCHEMAS,
    **ps_roi_pool.SCHEMAS,
    **prroi_pool.SCHEMAS,
    **roi_align_3d.SCHEMAS,
    **roi_align_max.SCHEMAS,
    **roi_align_rotated.SCHEMAS,
    **masked_roi_align.SCHEMAS,
    **paste_masks.SCHEMAS,
}
