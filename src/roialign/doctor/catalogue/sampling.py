"""RA5xx: sampling, types and training."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import AT_16, ONE_BOX, STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA501",
        "large boxes sampled at a few points",
        "warning",
        "A fixed sampling_ratio takes the same few points from a bin of many cells as from a bin of one. Most of the "
        "cells of a large box are then never read, and its features are those of a few points in it.",
        "Let the size of the box decide, sampling_ratio=-1, or pool large boxes from a coarser level.",
        "features = torch.rand(1, 8, 256, 256)  # of a 1024 x 1024 image: stride 4\n"
        "boxes = [torch.tensor([[40.0, 60.0, 1000.0, 900.0], [300.0, 100.0, 1000.0, 700.0]])]",
        "roi_align(features, boxes, 7, spatial_scale=1 / 4, sampling_ratio=2)",
        "roi_align(features, boxes, 7, spatial_scale=1 / 4, sampling_ratio=-1)",
    ),
    Entry(
        "RA502",
        "boxes far smaller than a cell",
        "warning",
        "All bins of such a box are within one cell and have nearly the same numbers. Neighbouring objects get the "
        "same features. The map is too coarse for these boxes, or they are not in pixels of its image.",
        "Pool small boxes from a finer map, or enlarge the image.",
        "features = torch.rand(1, 8, 32, 32)  # of a 1024 x 1024 image: stride 32\n"
        "boxes = [torch.tensor([[300.0, 300.0, 305.0, 306.0], [700.0, 420.0, 706.0, 424.0]])]\n"
        "finer = torch.rand(1, 8, 256, 256)  # stride 4",
        "roi_align(features, boxes, 7, spatial_scale=1 / 32)",
        "roi_align(finer, boxes, 7, spatial_scale=1 / 4)",
    ),
    Entry(
        "RA503",
        "boxes that require a gradient, but the operator passes none",
        "warning",
        "torchvision's roi_align silently computes no gradient for boxes, so the layers that made them learn nothing "
        "through the pooled features. roi_pool and ps_roi_pool round boxes to whole cells, so no library can pass "
        "one.",
        "Call roialign.roi_align, which passes one. Or use boxes.detach() if none is intended.",
        f"import torchvision\n{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]], requires_grad=True)]",
        "torchvision.ops.roi_align(features, boxes, 7, spatial_scale=1 / 16)",
        AT_16,
        watched=True,
    ),
    Entry(
        "RA504",
        "a non-deterministic backward pass in deterministic mode",
        "warning",
        "The backward of torchvision's CUDA operator adds with atomics, in a different order in each run. Under "
        "torch.use_deterministic_algorithms(True) PyTorch raises there, and with warn_only=True results differ in "
        "their last digits from run to run.",
        "Call roialign.roi_align, whose backward adds in a fixed order in that mode.",
        f"import torchvision\n{STRIDE_16}\n{ONE_BOX}\nrois = torch.cat([torch.zeros(1, 1), boxes[0]], 1)\n"
        "features = features.requires_grad_()  # on CUDA, with torch.use_deterministic_algorithms(True)",
        "torch.ops.torchvision.roi_align(features, rois, 1 / 16, 7, 7, -1, False)",
        AT_16,
        watched=True,
    ),
    Entry(
        "RA505",
        "types or devices that do not match",
        "error",
        "Boxes must be floating point, on the device of the features and in their type. float32 boxes also work with "
        "float16 and bfloat16 features, because half types would lose coordinates.",
        "Convert the boxes: boxes.to(features.device, torch.float32).",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300, 300, 400, 400]])]",
        AT_16,
        "roi_align(features, [boxes[0].float()], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA506",
        "invalid output_size, sampling_ratio or other option",
        "error",
        "output_size is a whole number of at least 1, or a pair (height, width) of them. sampling_ratio is a whole "
        "number of at most 128; 0 or less lets the size of the box decide. mode, compat and similar options take the "
        "names that the operator lists, and compat excludes what the other library does not have. The policy of "
        "set_policy, mean and std of a RegionExtractor, the model of watch and the file of a saved call are options, "
        "too.",
        "Pass output_size=7 and sampling_ratio=2, or -1.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features, boxes, (7, 7, 7), spatial_scale=1 / 16)",
        AT_16,
    ),
    Entry(
        "RA507",
        "unsupported derivative",
        "error",
        "Forward mode (torch.func.jvp, jacfwd, forward_ad) works where the operator is linear: in the features, not "
        'in the boxes, and not with mode="max". Gradients to the boxes and of the largest samples cannot be '
        "differentiated again. torch's own operators and torchvision's silently give zeros there.",
        "Detach the boxes, or use reverse mode: backward(), torch.func.vjp, jacrev.",
        f"{STRIDE_16}\n{ONE_BOX}\nrois = torch.cat([torch.zeros(1, 1), boxes[0]], 1)\n"
        "pool = lambda rois: roi_align(features, rois, 7, spatial_scale=1 / 16)",
        "torch.func.jvp(pool, (rois,), (rois,))",
        "torch.func.vjp(pool, rois)",
        raised=True,
    ),
)
