"""Draws how the time grows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .growth import BY_BOXES, BY_OUTPUT_SIZE, WORKLOAD
from .implementations import BACKWARD, FORWARD, ROIALIGN, TORCHVISION
from .results import GrowthRow

_COLOURS = {ROIALIGN: "#0b62a4", TORCHVISION: "#d1601f"}
_STYLES = {FORWARD: ("-", "o"), BACKWARD: ("--", "s")}
_GREY = "#555555"
_SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign", "axes.spines.top": False, "axes.spines.right": False}


def draw(rows: Sequence[GrowthRow], environment: Mapping[str, str], threads: int) -> bytes:
    """Both series as an SVG image, on white so that it can be read on any page."""
    channels = WORKLOAD.channels
    height, width = (side_px // WORKLOAD.strides[0] for side_px in WORKLOAD.image_size_hw)
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        by_boxes, by_size = figure.subplots(1, 2, sharey=True)
        _draw_series(by_boxes, [row for row in rows if row.series == BY_BOXES])
        _draw_series(by_size, [row for row in rows if row.series == BY_OUTPUT_SIZE])
        size = WORKLOAD.output_size
        by_boxes.set(title=f"{size}x{size} bins for each box", xlabel="boxes", ylabel="time of one call in ms")
        by_boxes.legend(frameon=False)
        by_size.set(title=f"{WORKLOAD.boxes} boxes", xlabel="bins along each side of the output")
        sizes = sorted({row.output_size for row in rows if row.series == BY_OUTPUT_SIZE})
        by_size.set_xticks(sizes, map(str, sizes), minor=False)
        by_size.minorticks_off()
        figure.suptitle(
            f"Time of roi_align on a {channels}x{height}x{width} map, sampling_ratio=2, float32", fontweight="bold"
        )
        figure.supxlabel(
            f"{environment['cpu']}, {threads} threads, torch {environment['torch']}, torchvision "
            f"{environment['torchvision']}, commit {environment['commit']}. Medians; shaded: between the quartiles.",
            fontsize=9,
            color=_GREY,
        )
        image = io.BytesIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def _draw_series(axes: Axes, rows: Sequence[GrowthRow]) -> None:
    for implementation, colour in _COLOURS.items():
        for direction, (line, marker) in _STYLES.items():
            own = [row for row in rows if (row.implementation, row.pass_) == (implementation, direction)]
            x = [row.boxes if row.series == BY_BOXES else row.output_size for row in own]
            medians_ms = [row.times.median_ms for row in own]
            label = f"{implementation}, {direction}"
            axes.plot(x, medians_ms, line, marker=marker, markersize=5, color=colour, label=label)
            quartiles_ms = [row.times.q1_ms for row in own], [row.times.q3_ms for row in own]
            axes.fill_between(x, *quartiles_ms, color=colour, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(which="major", color="#dddddd")
