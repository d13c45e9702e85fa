"""Draws docs/assets/zeros.svg: a box on an image, and where three calls of roi_align read it on the map."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import roialign

OUT = Path(__file__).parent.parent / "docs" / "assets" / "zeros.svg"
IMAGE_PX, STRIDE = 1024, 16
CELLS = IMAGE_PX // STRIDE
BOX_XYXY = (300.0, 300.0, 600.0, 500.0)
CALLS = (
    ("spatial_scale=1: off the map", 1.0, 1.0),
    ("spatial_scale=1/16", 1 / STRIDE, 1.0),
    ("boxes / 16", 1.0, 1 / STRIDE),
)
_SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign"}
_BOX, _ZERO, _GRID = "#0b62a4", "#c6301e", "#cccccc"


def coverage(spatial_scale: float, times: float) -> float:
    """The largest value that the call gives on a map of ones."""
    boxes = [torch.tensor([BOX_XYXY]) * times]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", roialign.RoIWarning)  # which says so
        return float(roialign.roi_align(torch.ones(1, 1, CELLS, CELLS), boxes, 7, spatial_scale).max())


def main() -> None:
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(13, 3.9), layout="constrained")
        image, *maps = figure.subplots(1, 4)
        _draw(image, IMAGE_PX, 128, BOX_XYXY, "the image, 1024 x 1024 pixels", _BOX)
        for axes, (name, scale, times) in zip(maps, CALLS, strict=True):
            read_xyxy = tuple(side * scale * times for side in BOX_XYXY)
            largest = coverage(scale, times)
            result = "all zeros" if largest == 0 else "right"
            _draw(axes, CELLS, 8, read_xyxy, f"{name}\n{result}", _ZERO if largest == 0 else _BOX)
        file = io.StringIO()
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    OUT.write_text(file.getvalue(), encoding="utf-8")


def _draw(axes: Axes, side: int, step: int, box_xyxy: tuple[float, ...], title: str, colour: str) -> None:
    """A square of this side with a grid, and the box; further out where the box is."""
    left, top, right, bottom = box_xyxy
    reach = max(side, right, bottom) * 1.06
    axes.add_patch(Rectangle((0, 0), side, side, facecolor="#eef3f8", edgecolor="#333333", linewidth=1.2))
    for line in range(step, side, step):
        axes.plot([line, line], [0, side], color=_GRID, linewidth=0.6)
        axes.plot([0, side], [line, line], color=_GRID, linewidth=0.6)
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2.2, zorder=3)
    )
    axes.set(xlim=(-0.03 * reach, reach), ylim=(reach, -0.03 * reach), aspect="equal")
    axes.set_title(title, fontsize=11)
    axes.set_xticks([0, side], ["0", str(side)])
    axes.set_yticks([0, side], ["0", str(side)])
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
