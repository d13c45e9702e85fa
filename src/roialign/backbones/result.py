"""What trace returns: the grids, how to read the maps, and how to show them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from roialign.backbones.layers import LayerStep
from roialign.backbones.layout import Layout
from roialign.backbones.scrambled import Scrambled
from roialign.errors import MapNameError
from roialign.geometry import html
from roialign.geometry.grid import FeatureGrid, OffsetKind, check_offset_kind

Method = dict[str, tuple[float, float]] | str
_WIDTH = 80
_HEADS = (
    *("map", "cells", "stride", "offset", "receptive field", "spatial_scale"),
    *("px off, aligned=True", "px off, aligned=False"),
)
_LONGEST_NOTE = 1000  # signs


@dataclass(frozen=True, eq=False, repr=False)
class BackboneTrace(Mapping[str, FeatureGrid]):
    """The grid of each feature map of a backbone, by its name, in the backbone's order.

    Convention: sizes are (height, width), strides and offsets (y, x) in pixels of the image that enters the
    backbone.

    Args:
        backbone: the name of the module's class.
        image_size_hw: the image that was traced.
        grids: the grid of each map.
        layouts: which output each map is, and the order of its dimensions.
        whole_image: whether a cell sees the whole image, in y and in x: attention, squeeze-and-excitation.
        methods: what each method found: "structure", "shapes", "measured"; a str where it found nothing.
        notes: disagreements, and what depends on the image size.
        left_out: outputs that are not maps of the image, and why.
        layers: the accumulation layer by layer.
        offset: which offset the grids use.
        scrambled: maps whose cells are not in the order of the image, which are left out, and how to put them in order.

    Example:
        >>> from torch import nn
        >>> from roialign.backbones import trace
        >>> print(trace(nn.Conv2d(3, 8, 16, stride=16), (224, 224), measured=False))
        Conv2d, image 224 x 224; offset in use: convention (half a stride)
        <BLANKLINE>
                                      receptive  spatial_  px off,  aligned=
        map    cells  stride  offset      field     scale     True     False
        0    14 x 14      16       8         16      1/16        0        -8
    """

    backbone: str
    image_size_hw: tuple[int, int]
    grids: Mapping[str, FeatureGrid]
    layouts: Mapping[str, Layout]
    whole_image: Mapping[str, tuple[bool, bool]]
    methods: Mapping[str, Mapping[str, Method]]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] | None = None
    layers: tuple[LayerStep, ...] = ()
    offset: OffsetKind = "convention"
    scrambled: Mapping[str, Scrambled] = field(default_factory=dict)

    def __getitem__(self, name: str) -> FeatureGrid:
        try:
            return self.grids[name]
        except (KeyError, TypeError):
            raise MapNameError.of(name, self.grids) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.grids)

    def __len__(self) -> int:
        return len(self.grids)

    def with_offset(self, kind: OffsetKind) -> BackboneTrace:
        """The same trace, its grids using another offset: "convention", "structural" or "calibrated".

        Raises:
            FeatureMapError: RA111, for an unknown kind, and if a grid has no such offset.
        """
        check_offset_kind(kind)
        return replace(self, grids={name: grid.with_offset(kind) for name, grid in self.items()}, offset=kind)

    def as_maps(self, outputs: Any) -> dict[str, Tensor]:
        """The maps [N, C, H, W] out of what the backbone returned, views where their memory allows.

        Args:
            outputs: what `backbone(image)` returned, for an image of any size; of the traced one for tokens.

        Returns:
            A tensor for each name, in the order of the trace, in the outputs' type and on their device.

        Raises:
            FeatureMapError: if the outputs are not the traced ones.

        Example:
            >>> import torch
            >>> from roialign.backbones import trace
            >>> backbone = torch.nn.Conv2d(3, 8, 16, stride=16)
            >>> traced = trace(backbone, (64, 96), measured=False)
            >>> {name: map.shape for name, map in traced.as_maps(backbone(torch.zeros(2, 3, 64, 96))).items()}
            {'0': torch.Size([2, 8, 4, 6])}
        """
        return {name: layout.find(outputs) for name, layout in self.layouts.items()}

    def to_dict(self) -> dict[str, Any]:
        """All but the layers, in plain types for JSON."""
        return {
            "backbone": self.backbone,
            "image_size_hw": list(self.image_size_hw),
            "offset": self.offset,
            "maps": {name: self._map_dict(name) for name in self},
            "notes": list(self.notes),
            "left_out": dict(self.left_out or {}),
        }

    def _map_dict(self, name: str) -> dict[str, Any]:
        grid, layout = asdict(self[name]), self.layouts[name]
        methods = {
            method: found if isinstance(found, str) else {key: list(value) for key, value in found.items()}
            for method, found in self.methods[name].items()
        }
        return {
            **{key: _plain(value) for key, value in grid.items()},
            "whole_image_hw": list(self.whole_image[name]),
            "layout": {"kind": layout.kind, "path": list(layout.path), "prefix_tokens": layout.prefix},
            "methods": methods,
        }

    def __repr__(self) -> str:
        return f"<BackboneTrace of {self.backbone} at {self.image_size_hw}: {', '.join(self)}>"

    def __str__(self) -> str:
        lines = [f"{self._head}\n", *table([self._row(name) for name in self])]
        lines += [""] if self._said else []
        for note in self._said:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table and the notes, for a notebook."""
        names = list(self)[: html.MOST_ROWS]
        grids = html.table(_HEADS, map(self._row, names), len(self) - len(names))
        notes = [html.line(f"- {note}", _LONGEST_NOTE) for note in self._said[: html.MOST_ROWS]]
        return html.block(html.line(self._head), grids, *notes)

    @property
    def _head(self) -> str:
        height, width = self.image_size_hw
        meaning = " (half a stride)" if self.offset == "convention" else ""
        return f"{self.backbone}, image {height} x {width}; offset in use: {self.offset}{meaning}"

    @property
    def _said(self) -> list[str]:
        return [*self.notes, *(f"left out: {name}: {reason}." for name, reason in (self.left_out or {}).items())]

    def _row(self, name: str) -> list[str]:
        grid = self[name]
        structural = grid.structural_offset_yx
        wrong = ["?", "?"]
        if structural is not None:
            claims = (grid.conventional_offset_yx, (0.0, 0.0))
            wrong = [pair([c - s for c, s in zip(claim, structural, strict=True)], signed=True) for claim in claims]
        return [
            name,
            f"{grid.size_hw[0]} x {grid.size_hw[1]}",
            pair(grid.stride_yx),
            pair(structural) if structural else "?",
            _field(grid, self.whole_image[name]),
            _scale(grid.stride_yx),
            *wrong,
        ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of the table, at most 80 columns wide."""
    heads = ["", "", "", "", "receptive", "spatial_", "px off,", "aligned="]
    names = ["map", "cells", "stride", "offset", "field", "scale", "True", "False"]
    columns = list(zip(*[heads, names, *rows], strict=True))
    widths = [max(map(len, column)) for column in columns]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH else 1
    widths[0] = min(widths[0], _WIDTH - sum(widths[1:]) - gap * (len(widths) - 1))
    lines = []
    for row in [heads, names, *rows]:
        cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append((" " * gap).join([shortened(row[0], widths[0]).ljust(widths[0]), *cells]).rstrip())
    return lines


def shortened(name: str, width: int) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= width else ".." + name[len(name) - width + 2 :]


def pair(values: Sequence[float], signed: bool = False) -> str:
    """(y, x) as one number if they are equal."""
    texts = [f"{value:+.5g}" if signed and abs(value) > 1e-9 else f"{value + 0.0:.5g}" for value in values]
    return texts[0] if texts[0] == texts[1] else ", ".join(texts)


def _field(grid: FeatureGrid, whole: tuple[bool, bool]) -> str:
    if grid.receptive_field_hw is None:
        return "?"
    texts = ["whole" if all_of_it else str(n) for n, all_of_it in zip(grid.receptive_field_hw, whole, strict=True)]
    return texts[0] if texts[0] == texts[1] else ", ".join(texts)


def _scale(stride_yx: tuple[float, float]) -> str:
    """1 / stride, for the one number that roi_align takes."""
    if abs(stride_yx[0] - stride_yx[1]) > 1e-9:
        return "none fits"
    return f"1/{stride_yx[0]:.6g}"


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
