"""Draws agreement against offset as an SVG image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from roialign.backbones.axis_calibration import AxisCalibration

_PANEL_W, _PANEL_H = 400, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 34, 34  # of a panel
_HEAD = 56
_INK, _GREY, _FAINT, _CHANCE = "#222222", "#666666", "#dddddd", "#999999"
_STRUCTURAL, _CONVENTION, _CALIBRATED = "#7a4fa3", "#0b62a4", "#d1601f"


def draw(levels: Mapping[str, tuple[AxisCalibration, AxisCalibration]]) -> str:
    """One row of panels for each level, x at the left and y at the right; on white, to be read on any page."""
    width, height = 2 * _PANEL_W, _HEAD + len(levels) * _PANEL_H
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _label(width / 2, 20, "Agreement of boxes with their mirror images, by the offset assumed", "middle", 15),
        *_legend(width),
    ]
    for row, (name, axes_xy) in enumerate(levels.items()):
        for column, (label, axis) in enumerate(zip("xy", axes_xy, strict=True)):
            parts.append(f'<g transform="translate({column * _PANEL_W} {_HEAD + row * _PANEL_H})">')
            parts += _panel(f"{name}, {label}", axis)
            parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(width: int) -> Iterator[str]:
    entries = (
        ("structural", _STRUCTURAL),
        ("convention", _CONVENTION),
        ("calibrated, 95 %", _CALIBRATED),
        ("by chance", _CHANCE),
    )
    for index, (text, colour) in enumerate(entries):
        x = width / 2 - 265 + index * 140
        yield f'<path d="M{x:g} 39h22" stroke="{colour}" stroke-width="2"{_dashes(colour)}/>'
        yield _label(x + 28, 43, text, "start")


def _panel(name: str, axis: AxisCalibration) -> Iterator[str]:
    found = axis.verdict if axis.offset is None else f"{axis.offset:.2f} px"
    yield _label(_LEFT, 22, f"{name}, stride {axis.stride:g}: {found}", "start", 13)
    left, right, top, bottom = _LEFT, _PANEL_W - _RIGHT, _TOP, _PANEL_H - _BOTTOM
    yield f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="{_GREY}"/>'
    if not axis.offsets:
        yield _label((left + right) / 2, (top + bottom) / 2, axis.reason, "middle", 10)
        return
    first, last = axis.offsets[0], axis.offsets[-1]
    floor = min(0.0, axis.agreement_by_chance or 0.0, *axis.agreements)

    def x_of(offset: float) -> float:
        return round(left + (offset - first) / (last - first) * (right - left), 1)

    def y_of(agreement: float) -> float:
        return round(bottom - (agreement - floor) / (1 - floor) * (bottom - top), 1)

    for value in (0.0, 0.5, 1.0):
        yield f'<path d="M{left} {y_of(value)}H{right}" stroke="{_FAINT}"/>'
        yield _label(left - 6, y_of(value) + 4, f"{value:g}", "end")
    for value in (0.0, axis.stride / 2, axis.stride):
        yield f'<path d="M{x_of(value)} {bottom}v4" stroke="{_GREY}"/>'
        yield _label(x_of(value), bottom + 16, f"{value:g}", "middle")
    yield _label(right, bottom + 30, "offset in px", "end", 11)
    if axis.interval is not None and axis.offset is not None:
        low, high = map(x_of, axis.interval)
        yield (
            f'<rect x="{low}" y="{top}" width="{max(high - low, 1):.1f}" height="{bottom - top}" '
            f'fill="{_CALIBRATED}" opacity="0.25"/>'
        )
    lines = ((axis.structural, _STRUCTURAL), (axis.stride / 2, _CONVENTION), (axis.offset, _CALIBRATED))
    for offset, colour in lines:
        if offset is not None:
            yield f'<path d="M{x_of(offset)} {top}V{bottom}" stroke="{colour}" stroke-width="1.5"{_dashes(colour)}/>'
    if axis.agreement_by_chance is not None:
        yield f'<path d="M{left} {y_of(axis.agreement_by_chance)}H{right}" stroke="{_CHANCE}" stroke-width="1.5"/>'
    points = " ".join(f"{x_of(o)},{y_of(a)}" for o, a in zip(axis.offsets, axis.agreements, strict=True))
    yield f'<polyline points="{points}" fill="none" stroke="{_INK}" stroke-width="2"/>'


def _dashes(colour: str) -> str:
    return {_STRUCTURAL: ' stroke-dasharray="6 3"', _CONVENTION: ' stroke-dasharray="2 3"'}.get(colour, "")


def _label(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{escape(text)}</text>'
