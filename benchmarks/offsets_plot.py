"""Draws the three offsets of each network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

_SETTINGS = {"font.size": 11, "svg.hashsalt": "roialign", "axes.spines.top": False, "axes.spines.right": False}
_STRUCTURAL, _CONVENTION, _CALIBRATED = "#7a4fa3", "#0b62a4", "#d1601f"


def draw(rows: Sequence[Mapping[str, Any]], strides: Sequence[int]) -> str:
    """A line for each network and axis, a panel for each stride; offsets in strides."""
    lines = list(dict.fromkeys((row["network"], _kind(row), row["axis"]) for row in rows))
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(12, 0.34 * len(lines) + 1.8), layout="constrained")
        panels = figure.subplots(1, len(strides), sharey=True, sharex=True)
        for panel, stride in zip(panels, strides, strict=True):
            panel.axvline(0.5, color=_CONVENTION, linestyle=":", label="convention")
            for height, line in enumerate(lines):
                own = [row for row in rows if (row["network"], _kind(row), row["axis"]) == line]
                _draw_line(panel, -height, [row for row in own if row["stride"] == stride])
            panel.set(title=f"stride {stride}", xlabel="offset in strides", xlim=(-0.5, 1.6))
            panel.grid(axis="x", color="#dddddd")
        names = [f"{network}, {kind}, {axis}" for network, kind, axis in lines]
        panels[0].set_yticks([-height for height in range(len(lines))], names)
        handles = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False)
        image = io.StringIO()
        figure.savefig(image, format="svg", facecolor="white", metadata={"Date": None})
    return image.getvalue()


def _draw_line(panel: Any, height: int, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        panel.plot(
            row["structural"], height, "|", color=_STRUCTURAL, markersize=13, markeredgewidth=2, label="structural"
        )
        if _kind(row) == "random":
            face = _CALIBRATED if row["verdict"] == "measured" else "none"
            label = "calibrated, one seed" if row["verdict"] == "measured" else "best, but undecided"
            panel.plot(row["best"], height, "o", color=_CALIBRATED, markerfacecolor=face, markersize=4, label=label)
        else:
            panel.plot((row["low"], row["high"]), (height, height), color=_CALIBRATED, linewidth=3)
            panel.plot(row["best"], height, "D", color=_CALIBRATED, markersize=6, label="calibrated, 95 %")


def _kind(row: Mapping[str, Any]) -> str:
    return str(row["weights"]).split()[0]
