"""RA4xx: levels of a pyramid."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import Entry

_TWO_LEVELS = (
    "from torchvision.ops import MultiScaleRoIAlign\n"
    "fine, coarse = torch.rand(1, 8, 64, 64), torch.rand(1, 8, 32, 32)  # of a 256 x 256 image: strides 4 and 8\n"
    "boxes = [torch.tensor([[10.0, 10.0, 60.0, 60.0], [20.0, 30.0, 250.0, 240.0]])]"
)

ENTRIES = (
    Entry(
        "RA401",
        "missing level",
        "error",
        "Boxes are pooled from the map of their level, and each map needs a grid. pool_regions refuses a level "
        "without a map, and a map without a grid. torchvision's MultiScaleRoIAlign does not. Where a level between "
        "its first and its last map is missing, such as with strides 4, 8 and 32, it counts on without the gap, and "
        "the largest boxes become zeros.",
        "Pass MultiScaleRoIAlign all maps from the finest to the coarsest, in featmap_names and in the dict. Pass "
        "pool_regions a grid for each map, under the names that the backbone uses, and levels below their number, "
        "counted from 0. FPNLevels() chooses only existing ones.",
        "grids = [FeatureGrid((32, 32), (8.0, 8.0)), FeatureGrid((16, 16), (16.0, 16.0))]\n"
        "features = [torch.rand(1, 8, 32, 32), torch.rand(1, 8, 16, 16)]\n"
        "boxes = [torch.tensor([[30.0, 30.0, 90.0, 70.0]])]",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([2]))",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([1]))",
        raised=True,
    ),
    Entry(
        "RA402",
        "levels in the wrong order",
        "error",
        "torchvision's MultiScaleRoIAlign takes the first map for the finest level and the last for the coarsest. It "
        "keeps the order of the dict of maps; the order of featmap_names does not matter. With coarse before fine, "
        "all boxes become zeros. With other orders, boxes are pooled from maps of other levels.",
        "Pass the maps from the finest to the coarsest: {name: features[name] for name in names}. Or use "
        "pool_regions, which takes the levels from the grids, in any order.",
        _TWO_LEVELS,
        'MultiScaleRoIAlign(["0", "1"], 7, 2)({"1": coarse, "0": fine}, boxes, [(256, 256)])',
        'MultiScaleRoIAlign(["0", "1"], 7, 2)({"0": fine, "1": coarse}, boxes, [(256, 256)])',
        watched=True,
    ),
    Entry(
        "RA403",
        "an inferred scale that is not the map's",
        "error",
        "torchvision's MultiScaleRoIAlign is not told the scales: it divides the height of each map by the largest "
        "height in image_shapes and rounds to a power of two. That goes wrong where the stride is not a power of two, "
        "such as 14, where rows and columns have different strides, and where image_shapes are not about the size of "
        "the tensor that entered the backbone, as for small images with much padding.",
        "Use pool_regions with the grids of roialign.trace, or roi_align with the scale of the map. To keep the "
        "pooler, pass it the sizes of the tensor that entered, or set its scales and map_levels.",
        "from torchvision.ops import MultiScaleRoIAlign\n"
        "backbone = torch.nn.Conv2d(3, 8, 14, stride=14)  # patches of 14\n"
        'features = {"0": backbone(torch.rand(1, 3, 518, 518))}\n'
        "boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [14.0, 28.0, 500.0, 140.0]])]",
        'MultiScaleRoIAlign(["0"], 7, 2)(features, boxes, [(518, 518)])',
        'roi_align(features["0"], boxes, 7, spatial_scale=1 / 14, sampling_ratio=2)',
        watched=True,
    ),
    Entry(
        "RA404",
        "scales kept from an earlier batch",
        "error",
        "torchvision's MultiScaleRoIAlign infers its scales in its first run and keeps them, whatever comes later. If "
        "the scales came out wrong for the images of that run (a dummy to warm up, small images with much padding), "
        "they are wrong from then on.",
        "Reset them before the next run: pooler.scales = None. Or run it first on typical images.",
        f"{_TWO_LEVELS}\n"
        'pooler = MultiScaleRoIAlign(["0", "1"], 7, 2)\n'
        "pooler({name: torch.rand(1, 8, size, size) for name, size in [('0', 16), ('1', 8)]}, "
        "[torch.tensor([[5.0, 5.0, 30.0, 30.0]])], [(40, 40)])  # padded to 64 x 64",
        'pooler({"0": fine, "1": coarse}, boxes, [(256, 256)])',
        'MultiScaleRoIAlign(["0", "1"], 7, 2)({"0": fine, "1": coarse}, boxes, [(256, 256)])',
        watched=True,
    ),
    Entry(
        "RA405",
        "levels that can never be given a box",
        "error",
        "torchvision's MultiScaleRoIAlign sends a box to the level of its size, and counts levels by their strides, "
        "from the first map's to the last one's. Of several maps with the same stride, as a backbone with dilation "
        "instead of strides returns them, it uses only the first. The others are never read, and learn nothing.",
        "Pass the pooler maps of different strides. Or pool all boxes from each map and concatenate the channels.",
        "from torchvision.ops import MultiScaleRoIAlign\n"
        "maps = {name: torch.rand(1, 8, 32, 32) for name in ['p3', 'p4']}  # both of a 256 x 256 image: stride 8\n"
        "boxes = [torch.tensor([[10.0, 10.0, 60.0, 60.0], [20.0, 30.0, 250.0, 240.0]])]",
        'MultiScaleRoIAlign(["p3", "p4"], 7, 2)(maps, boxes, [(256, 256)])',
        'torch.cat([MultiScaleRoIAlign([name], 7, 2)(maps, boxes, [(256, 256)]) for name in ["p3", "p4"]], 1)',
        watched=True,
    ),
)
