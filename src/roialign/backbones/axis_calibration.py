"""What was found out about the offset of one feature map along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["measured", "undecided", "no agreement", "not swept"]


@dataclass(frozen=True)
class AxisCalibration:
    """The effective offset of one level along one axis, by mirror agreement.

    Convention: offsets are in pixels of the image that entered the backbone, the centre of cell 0. Agreements are mean
    cosines of the features of a box and of its mirror image, less what all boxes of the image share.

    Args:
        verdict: "measured"; or why there is no offset: "undecided" (too flat a curve for these images), "no
            agreement" (the map of the mirrored image is too different), "not swept" (the map is too small).
        reason: the verdict in words, with its numbers.
        offset: the effective offset; None unless measured.
        stride, structural: of the grid; `structural` is None if not known.
        interval: 95 % interval of the best offset, by resampling images; also where it is too wide to decide.
        agreement_at_best, agreement_at_structural, agreement_at_convention: at the best, the structural offset, and
            half a stride.
        agreement_by_chance: of a box with the mirror image of another box of the same image.
        offsets, agreements: the curve.
    """

    verdict: Verdict
    reason: str
    stride: float
    structural: float | None
    offset: float | None = None
    best: float | None = None
    interval: tuple[float, float] | None = None
    agreement_at_best: float | None = None
    agreement_at_structural: float | None = None
    agreement_at_convention: float | None = None
    agreement_by_chance: float | None = None
    offsets: tuple[float, ...] = ()
    agreements: tuple[float, ...] = ()
