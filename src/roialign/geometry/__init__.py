"""Plain values that say where things lie: no operators."""

from roialign.geometry.grid import FeatureGrid as FeatureGrid
