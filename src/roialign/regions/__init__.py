"""Regions of images: grids and boxes put together, and pooled."""

from roialign.regions.extractor import RegionExtractor as RegionExtractor
from roialign.regions.images import ImageBatch as ImageBatch
from roialign.regions.levels import FPNLevels as FPNLevels
from roialign.regions.multi_scale_roi_align import MultiScaleRoIAlign as MultiScaleRoIAlign
from roialign.regions.pool import pool_regions as pool_regions
from roialign.regions.pooled import Pooled as Pooled
