"""RA1xx: frames and scale."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import AT_16, ONE_BOX, STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA101",
        "boxes in image pixels, spatial_scale left at 1",
        "error",
        "The boxes are in pixels of the image, but the feature map has only one cell for every stride x stride "
        "pixels. With spatial_scale=1.0 pixel 300 is read at cell 300 of a map that may have only 64 of them. Off the "
        "map every sample is zero, and so is the RoI.",
        "Pass spatial_scale=1 / stride, where stride is the product of the strides of all down-sampling layers "
        "between the image and this map. Or divide the boxes by it.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features, boxes, 7)",
        AT_16,
    ),
    Entry(
        "RA102",
        "boxes scaled twice",
        "error",
        "The boxes were already divided by the stride, and spatial_scale divides them again. All RoIs then read the "
        "first few cells of the map, at its top left. The numbers look fine but belong to another place.",
        "Scale once: either divide the boxes and leave spatial_scale at 1.0, or keep them in pixels and pass "
        "spatial_scale=1 / stride.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [64.0, 640.0, 160.0, 800.0]]) / 16]",
        AT_16,
        "roi_align(features, boxes, 7, spatial_scale=1.0)",
    ),
    Entry(
        "RA103",
        "normalized boxes, between 0 and 1",
        "error",
        "The boxes are fractions of the image's width and height, as many models return them. Read as pixels they are "
        "all within the first pixel, so every RoI reads the same corner of the map.",
        "Multiply x by the image's width and y by its height.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.1, 0.6, 0.2, 0.9]])]",
        AT_16,
        "roi_align(features, [boxes[0] * 1024], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA104",
        "the stride passed instead of its inverse",
        "error",
        "spatial_scale multiplies the boxes. With the stride, 16, it sends pixel 300 to cell 4800, far off the map. "
        "It should be 1 / 16.",
        "Pass spatial_scale=1 / stride.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features, boxes, 7, spatial_scale=16.0)",
        AT_16,
    ),
    Entry(
        "RA105",
        "spatial_scale is zero, negative or not finite",
        "error",
        "No such scale maps boxes to a feature map. Zero usually comes from an integer division (1 // 16), NaN from "
        "sizes that were not known yet. The strides of a FeatureGrid are refused for the same reasons.",
        "Pass spatial_scale=1 / stride, with a true division.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features, boxes, 7, spatial_scale=1 // 16)",
        AT_16,
    ),
    Entry(
        "RA106",
        "wrong stride for this feature map",
        "error",
        "spatial_scale is not the inverse of this map's stride but of another: the nominal stride of a dilated "
        "backbone, 16 for a transformer with patches of 14, the stride of another level. RoIs are off by more the "
        "further they are from the top left.",
        "Take the stride from the backbone, not from habit: image size / map size, before rounding. "
        "roialign.diagnose(..., image_size=(H, W)) computes it.",
        "features = torch.rand(1, 8, 37, 37)  # of a 518 x 518 image: patches of 14\n"
        "boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [14.0, 28.0, 500.0, 140.0]])]\n"
        "image_size = (518, 518)",
        "roi_align(features, boxes, 7, spatial_scale=1 / 16)",
        "roi_align(features, boxes, 7, spatial_scale=1 / 14)",
    ),
    Entry(
        "RA107",
        "boxes in another image frame",
        "error",
        "The boxes are in pixels of the photograph, but the backbone saw a resized, cropped or padded copy. "
        "spatial_scale is right for that copy only.",
        "Apply to the boxes what was done to the image: multiply by new size / old size, add the padding, subtract "
        "the corner of the crop.",
        "features = torch.rand(1, 8, 25, 25)  # of a 400 x 400 copy of a 1600 x 1600 photograph\n"
        "boxes = [torch.tensor([[1200.0, 1100.0, 1500.0, 1300.0], [800.0, 900.0, 1000.0, 1200.0]])]\n"
        "image_size = (400, 400)",
        AT_16,
        "roi_align(features, [boxes[0] * 400 / 1600], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA108",
        "cells are not centred where the call says",
        "warning",
        "aligned=True says that cell (0, 0) is centred half a stride into the image, aligned=False that it is centred "
        "on the image's corner. A network without padding loses its border: its first cell is centred many pixels "
        "inside, which tracing shows. Or roialign.calibrate found that the trained weights respond more than a "
        "quarter of a stride away. All RoIs are off by that much.",
        'Pool with the grid instead of a scale: pool_regions(features, boxes, 7, grid.with_offset("structural")), or '
        '"calibrated". Or subtract the offset from the boxes. Leave it as it is if later layers were trained with it.',
        f"{STRIDE_16}\n{ONE_BOX}\ngrid = FeatureGrid((64, 64), (16.0, 16.0), calibrated_offset_yx=(7.5, 8.2))",
        AT_16,
        "roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True)",
    ),
    Entry(
        "RA109",
        "coordinates lost in half precision",
        "error",
        "float16 has 11 significant bits and bfloat16 8, so whole pixels are skipped beyond 2048 and 256. Boxes in "
        "them are off by up to several pixels, each by a different amount. This is reported from 1/16 of a cell of "
        "the map or 2 % of a box's side, and is an error from half a cell or 10 %. roialign.Boxes refuses half types.",
        "Keep boxes in float32 from the start, also with half features; .float() does not bring lost digits back. "
        "roialign's operators take float32 boxes with half features.",
        f"{STRIDE_16}\nvalues = torch.tensor([[800.3, 901.2, 840.7, 939.6]])",
        "roi_align(features.bfloat16(), [values.bfloat16()], 7, spatial_scale=1 / 16)",
        "roi_align(features.bfloat16(), [values], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA110",
        "height and width need different scales",
        "error",
        "The map is coarser along one axis than along the other, for example after a resize that does not keep the "
        "aspect ratio. A single spatial_scale fits one axis and shifts the other.",
        "Divide the boxes by the stride of each axis yourself and leave spatial_scale at 1.0.",
        "features = torch.rand(1, 8, 16, 8)  # of a 256 x 512 image: strides 16 and 64\n"
        "boxes = [torch.tensor([[10.0, 20.0, 400.0, 200.0]])]\nimage_size = (256, 512)",
        AT_16,
        "roi_align(features, [boxes[0] / torch.tensor([64.0, 16.0, 64.0, 16.0])], 7, spatial_scale=1.0)",
    ),
    Entry(
        "RA111",
        "unknown offset",
        "error",
        "A grid always knows its conventional offset. It knows the structural one if it was traced, and the "
        "calibrated one if it was measured on images. Here the requested offset is missing or unknown, or a given one "
        "is not two finite numbers.",
        "Take the grid from roialign.trace(backbone, image_size), or from roialign.calibrate(backbone, images).",
        "grid = FeatureGrid(size_hw=(50, 84), stride_yx=(16.0, 16.0))",
        'grid.with_offset("structural")',
        'grid.with_offset("convention")',
        raised=True,
    ),
)
