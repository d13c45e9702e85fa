"""The grid that a feature map lays over the image that entered the backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from roialign.errors import FeatureMapError

OffsetKind = Literal["convention", "structural", "calibrated"]


@dataclass(frozen=True)
class FeatureGrid:
    """Where the cells of a feature map lie in the image that entered the backbone.

    Convention: sizes are (height, width); strides and offsets are (y, x) in pixels of that image, of any
    value. Cell (r, c) is centred at `offset_yx + (r, c) * stride_yx`, where pixel (0, 0) covers
    [0, 1) x [0, 1).

    Args:
        size_hw: cells of the map.
        stride_yx: distance between the centres of neighbouring cells.
        offset_yx: centre of cell (0, 0); half a stride if left out, which is what `aligned=True` means.
        structural_offset_yx: where the receptive field of cell (0, 0) is centred, which follows from kernels,
            strides and padding; that of the finest branch where several meet; None if not known.
        calibrated_offset_yx: what the trained weights respond to; None until measured.
        receptive_field_hw: pixels that a cell depends on, those beyond the image's border counted; the image's
            size where a cell depends on all of it; None if not known.
        channels: channels of the map; None if not known.
        offset_range_yx: ((y least, y most), (x least, x most)): the structural offsets of all branches that meet
            in the map, such as an FPN's top-down path; None if not known.
        receptive_field_centre_yx: centre of the whole receptive field of cell (0, 0), all branches taken together;
            None if not known, if it is the whole image, or if it does not move on by the stride from cell to cell.

    Raises:
        ValueError: if a size or a stride is not above zero.

    Example:
        >>> FeatureGrid(size_hw=(37, 37), stride_yx=(14.0, 14.0)).image_size_hw
        (518.0, 518.0)
    """

    size_hw: tuple[int, int]
    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float] | None = None
    structural_offset_yx: tuple[float, float] | None = None
    calibrated_offset_yx: tuple[float, float] | None = None
    receptive_field_hw: tuple[int, int] | None = None
    channels: int | None = None
    offset_range_yx: tuple[tuple[float, float], tuple[float, float]] | None = None
    receptive_field_centre_yx: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if any(cells < 1 for cells in self.size_hw) or min(self.stride_yx) <= 0:
            raise ValueError(f"expected sizes and strides above zero; got {self.size_hw} and {self.stride_yx}")
        if self.offset_yx is None:
            object.__setattr__(self, "offset_yx", self.conventional_offset_yx)

    @property
    def image_size_hw(self) -> tuple[float, float]:
        """The size of the image that the cells cover."""
        return self.size_hw[0] * self.stride_yx[0], self.size_hw[1] * self.stride_yx[1]

    @property
    def conventional_offset_yx(self) -> tuple[float, float]:
        """Half a stride: what `aligned=True` claims."""
        return self.stride_yx[0] / 2, self.stride_yx[1] / 2

    def with_offset(self, kind: OffsetKind) -> FeatureGrid:
        """The same grid with `offset_yx` chosen among the three that are known of it.

        Convention: as of FeatureGrid, (y, x) in pixels of the image that entered the backbone.

        Args:
            kind: "convention" (half a stride), "structural" or "calibrated".

        Returns:
            A grid that differs in `offset_yx` only.

        Raises:
            ValueError: for another kind, with the kinds that there are.
            FeatureMapError: if the grid has no such offset, with what gives it one.

        Example:
            >>> grid = FeatureGrid((50, 84), (16.0, 16.0), structural_offset_yx=(0.5, 0.5))
            >>> grid.offset_yx, grid.with_offset("structural").offset_yx
            ((8.0, 8.0), (0.5, 0.5))
        """
        known = {
            "convention": self.conventional_offset_yx,
            "structural": self.structural_offset_yx,
            "calibrated": self.calibrated_offset_yx,
        }
        if kind not in known:
            raise ValueError(f"expected one of the offsets {', '.join(get_args(OffsetKind))}; got {kind!r}")
        offset_yx = known[kind]
        if offset_yx is None:
            way = "roialign.trace(backbone, ...)" if kind == "structural" else "roialign.calibrate(backbone, images)"
            raise FeatureMapError(
                f"RA111: expected a grid with a {kind} offset; got one without. {way} gives it one; "
                'with_offset("convention") takes half a stride.'
            )
        return replace(self, offset_yx=offset_yx)
