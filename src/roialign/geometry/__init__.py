"""Plain values that say where things lie: no operators."""

from roialign.geometry.boxes import Boxes as Boxes
from roialign.geometry.frame import Frame as Frame
from roialign.geometry.grid import FeatureGrid as FeatureGrid
from roialign.geometry.maps import AxisMap as AxisMap
