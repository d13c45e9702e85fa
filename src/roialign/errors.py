"""The errors and the warning that roialign raises; each message starts with its RA code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any


class RoIError(ValueError):
    """An invalid call of an RoI operator: what was expected, what it got, the usual fix.

    `code` is the RA code that `roialign explain` describes.
    """

    @property
    def code(self) -> str:
        return str(self.args[0]).partition(":")[0] if self.args else ""


class BoxesShapeError(RoIError, AssertionError):
    """Boxes that are not rows of coordinates.

    Also an AssertionError, because that is what torchvision raises here.
    """


class BoxesValueError(RoIError):
    """Invalid coordinates: NaN, infinite, astronomically large, or an end before its beginning."""


class FrameError(RoIError):
    """Two frames without a path between them, or a step from frame to frame that cannot be followed."""


class BatchIndexError(RoIError, IndexError):
    """A batch index out of range."""


class FeatureMapError(RoIError):
    """A feature map that is not a non-empty [N, C, H, W] tensor."""


class MaskError(RoIError):
    """Masks that do not match the boxes, or are not masks."""


class TraceError(RoIError):
    """A backbone whose grids cannot be found: what failed in it, and what to do.

    `scrambled` has the maps whose cells are not in the order of the image, by name (RA311).
    """

    scrambled: Mapping[str, Any] = MappingProxyType({})


class ScaleError(RoIError):
    """A spatial_scale, or a grid's stride, that is zero, negative or not finite."""


class LevelError(RoIError):
    """A missing level, or maps that do not form a pyramid."""


class MapNameError(LevelError, KeyError):
    """A map that a trace does not have.

    Also a KeyError, because a trace is a mapping.
    """

    @classmethod
    def of(cls, name: object, known: Iterable[str]) -> MapNameError:
        """The error for `name`, where there are only the `known` ones."""
        return cls(f"RA401: expected the name of a map, one of {', '.join(known)}; no map is called {name!r}.")

    def __str__(self) -> str:
        return str(self.args[0])


class OutputSizeError(RoIError):
    """An invalid output_size or sampling_ratio."""


class OptionError(RoIError):
    """A mode, a preset or another option that does not exist, or that contradicts other arguments."""


class DtypeError(RoIError, RuntimeError):
    """Boxes and features whose types or devices do not match.

    Also a RuntimeError, because that is what torchvision raises here.
    """


class DerivativeError(RoIError, RuntimeError):
    """An unsupported derivative; it is never silently zero."""


class ExportError(RoIError):
    """A call without an equivalent in the format that a model is exported to."""


class CollectionError(RoIError):
    """A collection of images that cannot be listed: nothing there, or two images of one id."""


class AnnotationError(RoIError):
    """Annotations that cannot be read, or that cannot be told to belong to one image."""


class StoreError(RoIError):
    """A folder of region features that cannot be written or read: of another extraction, in use, full or damaged."""


class NoRegionError(StoreError, KeyError, IndexError):
    """A region that a store does not have.

    Also a KeyError and an IndexError, because a store is looked up like a mapping and a sequence.
    """

    def __str__(self) -> str:
        return str(self.args[0])


class SampleError(RoIError):
    """An extraction whose first images show that it would go wrong.

    `report` is what the doctor found in them; None where their images or boxes cannot be used at all.
    """

    report: Any = None


class WorkerError(RoIError, RuntimeError):
    """A process of an extraction that died."""


class CoverageError(RoIError):
    """RoIs that lie off the feature map, under `set_policy("raise")`."""


class RoIWarning(UserWarning):
    """Features that are probably not what you expect: those of RoIs off the map are zero or nearly zero, and those near
    a batch's padding depend on it."""
