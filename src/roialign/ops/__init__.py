"""The RoI operators: validate, then the registered operator, then the notice."""

from roialign.ops.ps_roi_align import PSRoIAlign as PSRoIAlign
from roialign.ops.ps_roi_align import ps_roi_align as ps_roi_align
from roialign.ops.ps_roi_pool import PSRoIPool as PSRoIPool
from roialign.ops.ps_roi_pool import ps_roi_pool as ps_roi_pool
from roialign.ops.roi_align import RoIAlign as RoIAlign
from roialign.ops.roi_align import roi_align as roi_align
from roialign.ops.roi_pool import RoIPool as RoIPool
from roialign.ops.roi_pool import roi_pool as roi_pool
