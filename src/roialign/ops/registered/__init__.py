"""The operators as torch.library knows them: one file for each, with schema, reference, fake and autograd."""

from roialign.ops.registered import (
    multi_scale_roi_align,
    prroi_pool,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_3d,
    roi_align_max,
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
}
