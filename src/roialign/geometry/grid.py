"""The grid that a feature map lays over the image that entered the backbone."""

from __future__ import annotations

from dataclasses import dataclass


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

    Raises:
        ValueError: if a size or a stride is not above zero.

    Example:
        >>> FeatureGrid(size_hw=(37, 37), stride_yx=(14.0, 14.0)).image_size_hw
        (518.0, 518.0)
    """

    size_hw: tuple[int, int]
    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.size_hw) < 1 or min(self.stride_yx) <= 0:
            raise ValueError(f"expected sizes and strides above zero; got {self.size_hw} and {self.stride_yx}")
        if self.offset_yx is None:
            object.__setattr__(self, "offset_yx", (self.stride_yx[0] / 2, self.stride_yx[1] / 2))

    @property
    def image_size_hw(self) -> tuple[float, float]:
        """The size of the image that the cells cover."""
        return self.size_hw[0] * self.stride_yx[0], self.size_hw[1] * self.stride_yx[1]
