"""Draws docs/assets/cells-*.svg: over the corner of a photograph, the cells of a map as three answers place them."""

from __future__ import annotations

import csv
import io
from importlib.resources import files
from pathlib import Path

import timm
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

import roialign
from roialign.geometry import FeatureGrid

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "benchmarks" / "results" / "offsets.csv"
STRIDE, SHOWN_CELLS = 16, 5
CROP_XYXY = (122, 70, 346, 294)  # of scikit-image's chelsea.png: 224 x 224 pixels, an eye in the corner
BACKBONES = (
    ("resnet50", "ResNet-50", None),
    ("tf_efficientnet_lite0", "EfficientNet-Lite0", "EfficientNet-Lite0"),
)  # timm's name, the title, and the name in MEASURED
SPOTLIT = (1, 1)
_SETTINGS = {"font.size": 13, "svg.hashsalt": "roialign"}
_PALE = 0.35
_CONVENTION = {"marker": "s", "markersize": 10, "markerfacecolor": "none", "markeredgecolor": "#0b62a4"}
_STRUCTURAL = {"marker": "o", "markersize": 8, "markerfacecolor": "#d1451e", "markeredgecolor": "white"}
_CALIBRATED = {"marker": "D", "markersize": 7, "markerfacecolor": "#ffd23f", "markeredgecolor": "black"}


def grid_of(name: str, size_hw: tuple[int, int], measured_as: str | None) -> FeatureGrid:
    """The grid of the backbone's map of stride 16, with the calibrated offset where the benchmark measured one."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, features_only=True, pretrained=False)
    traced = roialign.trace(backbone, image_size=size_hw, measured=False)
    (grid,) = (grid for grid in traced.values() if grid.stride_yx == (STRIDE, STRIDE))
    if measured_as is None:
        return grid
    with MEASURED.open(encoding="utf-8") as file:
        strides = {
            row["axis"]: float(row["best"])
            for row in csv.DictReader(file)
            if (row["network"], row["weights"], row["photographs"]) == (measured_as, "ImageNet", "packages")
            and row["stride"] == str(STRIDE)
        }
    return FeatureGrid(
        grid.size_hw,
        grid.stride_yx,
        structural_offset_yx=grid.structural_offset_yx,
        calibrated_offset_yx=(strides["y"] * STRIDE, strides["x"] * STRIDE),
    )


def draw(corner: Image.Image, grid: FeatureGrid, title: str) -> str:
    """The corner as an SVG image, with a mark at the centre of each cell for each known offset."""
    answers = [("aligned=True: half a stride", grid.conventional_offset_yx, _CONVENTION)]
    if grid.structural_offset_yx is not None:
        answers.append(("the trace: receptive fields", grid.structural_offset_yx, _STRUCTURAL))
    if grid.calibrated_offset_yx is not None:
        answers.append(("measured: trained weights", grid.calibrated_offset_yx, _CALIBRATED))
    side = corner.width
    figure = Figure(figsize=(4.4, 5.5))
    axes = figure.add_axes((0.09, 0.24, 0.875, 0.7))
    axes.imshow(
        Image.blend(corner, Image.new("RGB", corner.size, "white"), _PALE),
        extent=(0, side, side, 0),
        interpolation="none",
    )
    for line in range(STRIDE, side, STRIDE):
        axes.axhline(line, color="white", linewidth=1, zorder=1)
        axes.axvline(line, color="white", linewidth=1, zorder=1)
    for label, (first_y, first_x), style in answers:
        centres = [(first_x + STRIDE * column, first_y + STRIDE * row) for row, column in _cells()]
        shown = [(x, y) for x, y in centres if x < side and y < side]
        axes.plot(*zip(*shown, strict=True), linestyle="none", label=label, markeredgewidth=1.6, **style)
    spotlit = [tuple(first + STRIDE * n for first, n in zip(yx, SPOTLIT, strict=True)) for _, yx, _ in answers]
    axes.plot([x for _, x in spotlit], [y for y, _ in spotlit], color="black", linewidth=1.6, zorder=1.9)
    axes.set(xlim=(-0.5, side + 0.5), ylim=(side + 0.5, -0.5))
    ticks = range(0, side + 1, STRIDE)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set_title(title, fontsize=13)
    figure.legend(loc="upper center", bbox_to_anchor=(0.53, 0.19), frameon=False, handletextpad=0.3)
    file = io.StringIO()
    figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    return file.getvalue()


def _cells() -> list[tuple[int, int]]:
    return [(row, column) for row in range(SHOWN_CELLS) for column in range(SHOWN_CELLS)]


def main() -> None:
    photograph = Image.open(str(files("skimage") / "data" / "chelsea.png")).convert("RGB").crop(CROP_XYXY)
    corner = photograph.crop((0, 0, STRIDE * SHOWN_CELLS, STRIDE * SHOWN_CELLS))
    with rc_context(_SETTINGS):
        for name, title, measured_as in BACKBONES:
            grid = grid_of(name, (photograph.height, photograph.width), measured_as)
            out = ROOT / "docs" / "assets" / f"cells-{name.replace('tf_', '').replace('_', '-')}.svg"
            out.write_text(draw(corner, grid, f"{title}, stride {STRIDE}"), encoding="utf-8")


if __name__ == "__main__":
    main()
