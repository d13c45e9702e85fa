"""How pixels of the image that entered the network become cells of the map, as far as that is known."""

from __future__ import annotations

from dataclasses import dataclass

from roialign.doctor.evidence import COMMON_STRIDES, Evidence, may_have_lost

_LEAST_LEAD = 1.0  # cells by which a structural offset must depart from half a stride to be a matter of its own


@dataclass(frozen=True)
class Lattice:
    """One way in which pixels may become cells: cell = pixel / stride + lead, where cell 0 covers [0, 1)."""

    stride_yx: tuple[float, float]
    lead_yx: tuple[float, float] = (0.0, 0.0)
    """Not 0 where the cells' structural offset departs from half a stride by more than a cell."""
    weight: float = 1.0
    offset_yx: tuple[float, float] | None = None
    """Centre of cell (0, 0) in pixels, where it has been traced."""

    @property
    def shifted(self) -> bool:
        """Whether its offset is a matter of its own."""
        return self.lead_yx != (0.0, 0.0)

    @property
    def even(self) -> bool:
        """Whether one scale fits both axes."""
        return abs(self.stride_yx[0] / self.stride_yx[1] - 1) < 1e-3

    def cells_off(self, scale: float, map_size_hw: tuple[int, int]) -> float:
        """How many cells beside its place a box at the far edge is read with this scale."""
        pairs = zip(self.stride_yx, map_size_hw, strict=True)
        return max(abs(scale * stride - 1) * cells for stride, cells in pairs)


def lattices(known: Evidence) -> list[Lattice]:
    """What the map's grid may be, the likeliest first; of equal chances from the sizes, of common ones without them."""
    if known.grid is not None:
        return [_of_grid(known)]
    ratios = known.ratios_yx
    if ratios is None:
        return [Lattice((float(stride), float(stride)), weight=weight) for stride, weight in COMMON_STRIDES.items()]
    if known.stride_yx is not None:
        return [Lattice(known.stride_yx)]
    size_hw = known.image_size_hw or known.frame_hw
    lossy = [stride for stride in COMMON_STRIDES if may_have_lost(stride, size_hw, known.call.map_size_hw)]
    some = [Lattice((float(stride), float(stride)), weight=COMMON_STRIDES[stride]) for stride in lossy]
    return [*some, Lattice(ratios, weight=0.1)]


def _of_grid(known: Evidence) -> Lattice:
    grid = known.grid
    if grid is None or grid.structural_offset_yx is None:
        return Lattice(known.stride_yx or (1.0, 1.0))
    lead = tuple(0.5 - o / s for o, s in zip(grid.structural_offset_yx, grid.stride_yx, strict=True))
    if max(map(abs, lead)) < _LEAST_LEAD:
        return Lattice(grid.stride_yx)
    return Lattice(grid.stride_yx, (lead[0], lead[1]), offset_yx=grid.structural_offset_yx)
