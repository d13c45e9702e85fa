"""What the checks ask of the values of a feature map, which is far larger than all else that they look at."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

_CHANNELS_AT_A_TIME = (4, 32)  # most cells are shown to be live by a few channels; the rest are asked if they must be
_MAPS_REMEMBERED = 16


@dataclass(frozen=True)
class FeatureFacts:
    """Where a map [N, C, H, W] is neither NaN nor infinite, and where it is not zero."""

    not_finite: int
    """How many values are NaN or infinite."""
    not_finite_cells: Tensor | None
    """Cells [N, 1, H, W] with such a value; None where there are none."""
    live_cells: Tensor | None
    """Cells [N, 1, H, W] that are not zero in every channel; None where all are live."""

    @classmethod
    def of(cls, features: Tensor) -> FeatureFacts:
        """Looks at the values, and only as far as it must: the sum of finite values is finite."""
        features = features.detach()
        total = features.sum(dtype=torch.float64 if features.dtype == torch.float64 else torch.float32)
        if bool(total.isfinite()):
            return cls(0, None, _live_cells(features))
        bad = ~features.isfinite()
        count = int(bad.sum())
        return cls(count, bad.any(1, keepdim=True) if count else None, _live_cells(features))


@dataclass(frozen=True)
class DeviceFacts:
    """The same as tensors of the map's device, which nothing has waited for yet."""

    not_finite: Tensor
    not_finite_cells: Tensor
    live_cells: Tensor

    @classmethod
    def of(cls, features: Tensor) -> DeviceFacts:
        """Starts the work on the device and returns at once."""
        features = features.detach()
        bad = ~features.isfinite()
        return cls(bad.sum(), bad.any(1, keepdim=True), (features != 0).any(1, keepdim=True))

    def read(self) -> FeatureFacts:
        """The facts, once the work is done."""
        count = int(self.not_finite)
        live = None if bool(self.live_cells.all()) else self.live_cells
        return FeatureFacts(count, self.not_finite_cells if count else None, live)


class FactsOfMaps:
    """The facts of the maps that were seen last: detectors pool from each more than once."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Tensor], int, FeatureFacts]] = OrderedDict()

    def of(self, features: Tensor) -> FeatureFacts:
        """As `FeatureFacts.of`, which is asked again only if the map was written to meanwhile."""
        if features.is_inference():  # whose changes torch does not count
            return FeatureFacts.of(features)
        reference, version, facts = self._known.get(id(features), (None, 0, None))
        if facts is None or reference is None or reference() is not features or version != features._version:
            facts = FeatureFacts.of(features)
            self._known[id(features)] = weakref.ref(features), features._version, facts
            while len(self._known) > _MAPS_REMEMBERED:
                self._known.popitem(last=False)
        return facts


def _live_cells(features: Tensor) -> Tensor | None:
    images, channels, height, width = features.shape
    if channels and int(torch.count_nonzero(features[:, 0])) == images * height * width:
        return None
    live = torch.zeros((images, 1, height, width), dtype=torch.bool, device=features.device)
    begin = 0
    for end in (*_CHANNELS_AT_A_TIME, channels):
        live |= (features[:, begin:end] != 0).any(1, keepdim=True)
        if bool(live.all()):
            return None
        begin = end
    return live
