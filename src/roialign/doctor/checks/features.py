"""Checks of the feature map: RA301 and RA302. Each is a pure function of the evidence."""

from __future__ import annotations

from math import prod

import torch

from roialign.doctor.evidence import Evidence, rows_where
from roialign.doctor.findings import Finding


def not_finite(known: Evidence) -> Finding | None:
    """RA302: NaN or infinite features."""
    cells = known.facts.not_finite_cells
    if cells is None:
        return None
    reads = _reads(known, cells)
    image, _, row, column = cells.nonzero()[0].tolist()
    evidence = (
        f"{known.facts.not_finite} of {prod(known.call.features_shape)} features are NaN or infinite, the first in "
        f"image {image} at row {row}, column {column}; {int(reads.sum())} of {len(reads)} RoIs read one."
    )
    decide = "Look for the layer that made them: torch.autograd.detect_anomaly(), or a forward hook with isfinite()."
    return Finding("RA302", evidence, rows_where(reads), decide=decide)


def zero(known: Evidence) -> Finding | None:
    """RA301: the map itself is zero where it is read."""
    alive = known.facts.live_cells if known.call.features_shape[1] > 1 else None  # one channel is a mask
    if alive is None:
        return None
    dead = ~_reads(known, alive) & (known.coverage > 0)
    if not bool(dead.any()):
        return None
    share = 1 - float(alive.float().mean())
    evidence = (
        f"{int(dead.sum())} of {len(dead)} RoIs read only cells that are zero in every channel; {100 * share:.0f} % of "
        f"all cells of the map are."
    )
    decide = (
        "The boxes are not at fault here: look at the map (features.abs().amax()), at dead ReLUs before it, and "
        "whether weights and input were loaded and normalised."
    )
    return Finding("RA301", evidence, rows_where(dead), decide=decide)


def _reads(known: Evidence, cells: torch.Tensor) -> torch.Tensor:
    """Whether each RoI reads one of the marked `cells`, bool [N, 1, H, W] -> [K]."""
    pooled, _ = known.call.with_(input=cells.to(known.call.rois.dtype)).run()
    return (pooled > 0).flatten(1).any(1)
