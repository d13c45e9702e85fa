"""RA4xx: levels of a pyramid."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "RA401",
        "a level that there is not",
        "error",
        "Boxes are pooled from the map of their level, and each map needs a grid. A level without a map, or a map "
        "without a grid, would leave zeros.",
        "Give a grid for each map, under the names that the backbone gives them, and levels from 0 to one below their "
        "number; FPNLevels() chooses only among those that there are.",
        "grids = [FeatureGrid((32, 32), (8.0, 8.0)), FeatureGrid((16, 16), (16.0, 16.0))]\n"
        "features = [torch.rand(1, 8, 32, 32), torch.rand(1, 8, 16, 16)]\n"
        "boxes = [torch.tensor([[30.0, 30.0, 90.0, 70.0]])]",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([2]))",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([1]))",
        raised=True,
    ),
)
