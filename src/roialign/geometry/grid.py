"""The grid that a feature map lays over the image that entered the backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from roialign.errors import FeatureMapError, ScaleError
from roialign.geometry import values

OffsetKind = Literal["convention", "structural", "calibrated"]


@dataclass(frozen=True)
class FeatureGrid:
    """Where the cells of a feature map are in the image that entered the backbone.

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
        FeatureMapError: RA306, if size_hw, receptive_field_hw or channels are not whole numbers above zero; RA111,
            if an offset is not two finite numbers.
        ScaleError: RA105, if stride_yx is not two finite numbers above zero.

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
        keep = object.__setattr__
        keep(self, "size_hw", _counts("size_hw, cells (height, width)", self.size_hw))
        stride_yx = values.real_pair(self.stride_yx)
        if stride_yx is None or not (stride_yx[0] > 0 and stride_yx[1] > 0):
            raise ScaleError(
                "RA105: expected stride_yx, two finite numbers (y, x) above zero; got "
                f"{values.shown(self.stride_yx)}. A stride is image size / map size, as roialign.trace finds it."
            )
        keep(self, "stride_yx", stride_yx)
        if self.offset_yx is None:
            keep(self, "offset_yx", self.conventional_offset_yx)
        for name in ("offset_yx", "structural_offset_yx", "calibrated_offset_yx"):
            if (given := getattr(self, name)) is not None:
                keep(self, name, _offset(name, given))
        if self.offset_range_yx is not None:
            y, x = values.listed(self.offset_range_yx, 2) or (None, None)
            keep(self, "offset_range_yx", (_offset("offset_range_yx", y), _offset("offset_range_yx", x)))
        if self.receptive_field_hw is not None:
            keep(self, "receptive_field_hw", _counts("receptive_field_hw, pixels", self.receptive_field_hw))
        if self.channels is not None:
            keep(self, "channels", _counts("channels", (self.channels,), 1)[0])

    @property
    def image_size_hw(self) -> tuple[float, float]:
        """The size of the image that the cells cover."""
        return self.size_hw[0] * self.stride_yx[0], self.size_hw[1] * self.stride_yx[1]

    @property
    def conventional_offset_yx(self) -> tuple[float, float]:
        """Half a stride: what `aligned=True` claims."""
        return self.stride_yx[0] / 2, self.stride_yx[1] / 2

    def with_offset(self, kind: OffsetKind) -> FeatureGrid:
        """The same grid with `offset_yx` set to one of its known offsets.

        Convention: as of FeatureGrid, (y, x) in pixels of the image that entered the backbone.

        Args:
            kind: "convention" (half a stride), "structural" or "calibrated".

        Returns:
            A grid that differs in `offset_yx` only.

        Raises:
            FeatureMapError: RA111, for an unknown kind, with the known ones, and for a missing offset, with how to get
                it.

        Example:
            >>> grid = FeatureGrid((50, 84), (16.0, 16.0), structural_offset_yx=(0.5, 0.5))
            >>> grid.offset_yx, grid.with_offset("structural").offset_yx
            ((8.0, 8.0), (0.5, 0.5))
        """
        check_offset_kind(kind)
        known = {
            "convention": self.conventional_offset_yx,
            "structural": self.structural_offset_yx,
            "calibrated": self.calibrated_offset_yx,
        }
        offset_yx = known[kind]
        if offset_yx is None:
            way = "roialign.trace(backbone, ...)" if kind == "structural" else "roialign.calibrate(backbone, images)"
            raise FeatureMapError(
                f"RA111: expected a grid with a {kind} offset; got one without. {way} gives it one; "
                'with_offset("convention") takes half a stride.'
            )
        return replace(self, offset_yx=offset_yx)


def check_offset_kind(kind: Any) -> None:
    """Raise RA111 unless `kind` is one of the offsets that a grid may have."""
    if not isinstance(kind, str) or kind not in get_args(OffsetKind):
        known = ", ".join(f'"{one}"' for one in get_args(OffsetKind))
        raise FeatureMapError(
            f'RA111: expected an offset, one of {known}; got {values.shown(kind)}. "convention" is half a stride.'
        )


def _counts(wanted: str, given: Any, length: int = 2) -> tuple[Any, ...]:
    counts = [values.count(one) for one in values.listed(given, length) or (None,)]
    if None in counts:
        raise FeatureMapError(
            f"RA306: expected {wanted}, whole numbers above zero; got {values.shown(given)}. For a map [N, C, H, W] "
            "the size is features.shape[-2:]."
        )
    return tuple(counts)


def _offset(name: str, given: Any) -> tuple[float, float]:
    pair = values.real_pair(given)
    if pair is None:
        raise FeatureMapError(
            f"RA111: expected {name} in two finite numbers (y, x), pixels of the image; got {values.shown(given)}. "
            "Leave out what you do not know."
        )
    return pair
