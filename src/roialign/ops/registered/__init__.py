"""The operators as torch.library knows them: one file for each, with schema, reference, fake and autograd."""

from roialign.ops.registered import multi_scale_roi_align, ps_roi_align, ps_roi_pool, roi_align, roi_pool

SCHEMAS = {
    **roi_align.SCHEMAS,
    **multi_scale_roi_align.SCHEMAS,
    **roi_pool.SCHEMAS,
    **ps_roi_align.SCHEMAS,
    **ps_roi_pool.SCHEMAS,
}
