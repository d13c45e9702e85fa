"""The operators as torch.library knows them: one file for each, with schema, reference, fake and autograd."""

from roialign.ops.registered import masked_roi_align, multi_scale_roi_align, paste_masks, roi_align, roi_align_rotated

SCHEMAS = {
    **roi_align.SCHEMAS,
    **multi_scale_roi_align.SCHEMAS,
    **roi_align_rotated.SCHEMAS,
    **masked_roi_align.SCHEMAS,
    **paste_masks.SCHEMAS,
}
