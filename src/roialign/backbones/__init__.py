"""trace and calibrate: from a backbone to the grids of its feature maps."""

from roialign.backbones.calibrate import CalibratedTrace as CalibratedTrace
from roialign.backbones.calibrate import calibrate as calibrate
from roialign.backbones.result import BackboneTrace as BackboneTrace
from roialign.backbones.trace import trace as trace
