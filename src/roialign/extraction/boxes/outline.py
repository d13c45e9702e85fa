"""The box around points."""

from __future__ import annotations

import math
from collections.abc import Sequence


def box_around(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """x1, y1, x2, y2; NaN, if one of the points is."""
    if any(map(math.isnan, xs)) or any(map(math.isnan, ys)):
        return [math.nan] * 4
    return [min(xs), min(ys), max(xs), max(ys)]
