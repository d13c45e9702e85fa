// The schemas of the operators that this library serves: a saved program runs with it alone, without any Python of
// ours. Python defines the rest, and all of them where this library is not loaded; a test holds both equal.
#include <torch/csrc/stable/library.h>

#include <stdexcept>

namespace {

constexpr const char* kSchemas[] = {
    "roi_align(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "int sampling_ratio, bool aligned) -> (Tensor output, Tensor coverage)",
    "roi_align_backward(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, float spatial_scale, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "roi_align_backward_boxes(Tensor grad, Tensor input, Tensor rois, float spatial_scale, int sampling_ratio, "
    "bool aligned) -> Tensor",

    "multi_scale_roi_align(Tensor[] inputs, Tensor rois, Tensor levels, float[] cells, SymInt pooled_height, "
    "SymInt pooled_width, int sampling_ratio, bool widen) -> (Tensor output, Tensor coverage)",
    "multi_scale_roi_align_backward(Tensor grad, Tensor rois, Tensor levels, SymInt images, SymInt[] heights, "
    "SymInt[] widths, float[] cells, int sampling_ratio, bool widen) -> Tensor[]",
    "multi_scale_roi_align_backward_boxes(Tensor grad, Tensor[] inputs, Tensor rois, Tensor levels, float[] cells, "
    "int sampling_ratio, bool widen) -> Tensor",

    "roi_pool(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "bool legacy, bool with_maxima) -> (Tensor output, Tensor coverage, Tensor maxima)",
    "roi_pool_backward(Tensor grad, Tensor maxima, Tensor rois, SymInt images, SymInt height, SymInt width) "
    "-> Tensor",

    "ps_roi_align(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "int sampling_ratio, bool nan_if_empty) -> (Tensor output, Tensor coverage)",
    "ps_roi_align_backward(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, "
    "float spatial_scale, int sampling_ratio) -> Tensor",
    "ps_roi_align_backward_boxes(Tensor grad, Tensor input, Tensor rois, float spatial_scale, int sampling_ratio) "
    "-> Tensor",

    "ps_roi_pool(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "bool with_last, bool with_last_in_gradient) -> (Tensor output, Tensor coverage)",
    "ps_roi_pool_backward(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, "
    "float spatial_scale, bool with_last) -> Tensor",

    "prroi_pool(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale) "
    "-> (Tensor output, Tensor coverage)",
    "prroi_pool_backward(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, "
    "float spatial_scale) -> Tensor",
    "prroi_pool_backward_boxes(Tensor grad, Tensor input, Tensor rois, float spatial_scale) -> Tensor",

    "roi_align_3d(Tensor input, Tensor rois, SymInt pooled_depth, SymInt pooled_height, SymInt pooled_width, "
    "float scale_z, float scale_y, float scale_x, int sampling_ratio, bool aligned) "
    "-> (Tensor output, Tensor coverage)",
    "roi_align_3d_backward(Tensor grad, Tensor rois, SymInt images, SymInt depth, SymInt height, SymInt width, "
    "float scale_z, float scale_y, float scale_x, int sampling_ratio, bool aligned) -> Tensor",
    "roi_align_3d_backward_boxes(Tensor grad, Tensor input, Tensor rois, float scale_z, float scale_y, "
    "float scale_x, int sampling_ratio, bool aligned) -> Tensor",

    "roi_align_max(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "int sampling_ratio, bool aligned, bool corners) -> (Tensor output, Tensor coverage)",
    "roi_align_max_backward(Tensor grad, Tensor input, Tensor rois, float spatial_scale, int sampling_ratio, "
    "bool aligned, bool corners) -> Tensor",
    "roi_align_max_backward_boxes(Tensor grad, Tensor input, Tensor rois, float spatial_scale, int sampling_ratio, "
    "bool aligned, bool corners) -> Tensor",

    "roi_align_rotated(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, "
    "int sampling_ratio, bool aligned, bool clockwise, bool radians) -> (Tensor output, Tensor coverage)",
    "roi_align_rotated_backward(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, "
    "float spatial_scale, int sampling_ratio, bool aligned, bool clockwise, bool radians) -> Tensor",
    "roi_align_rotated_backward_boxes(Tensor grad, Tensor input, Tensor rois, float spatial_scale, "
    "int sampling_ratio, bool aligned, bool clockwise, bool radians) -> Tensor",

    "masked_roi_align(Tensor input, Tensor rois, Tensor masks, SymInt pooled_height, SymInt pooled_width, "
    "float spatial_scale, int sampling_ratio, bool aligned, bool masks_in_image) "
    "-> (Tensor output, Tensor coverage)",
    "masked_roi_align_backward(Tensor grad, Tensor rois, Tensor masks, SymInt images, SymInt height, SymInt width, "
    "float spatial_scale, int sampling_ratio, bool aligned, bool masks_in_image) -> Tensor",
    "masked_roi_align_backward_boxes(Tensor grad, Tensor input, Tensor rois, Tensor masks, float spatial_scale, "
    "int sampling_ratio, bool aligned, bool masks_in_image) -> (Tensor grad_rois, Tensor grad_masks)",
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(roialign, m) {
  for (const char* schema : kSchemas) {
    try {
      m.def(schema);
    } catch (const std::runtime_error&) {
      // Another copy of this library has defined it. Going on is right; an exception here would end the process.
    }
  }
}
