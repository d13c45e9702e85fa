"""trace: from a backbone to the grids of its feature maps."""

from roialign.backbones.result import BackboneTrace as BackboneTrace
from roialign.backbones.trace import trace as trace
