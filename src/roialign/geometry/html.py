"""Words and tables in HTML for notebooks: escaped, of bounded length, at home on light pages and on dark ones.

Styles are inline, for a notebook is one page and a style sheet would reach the other cells. Text has the notebook's
own colour; what is drawn beside it is half transparent grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 20  # of a table; of more there is the number
_LONGEST = 200  # signs of one text
_PICTURE_SIDE, _PICTURE_MARGIN = 240, 2  # pixels
_OUTLINE = "#e0701a"  # stands out from light and from dark
_LINE = "1px solid rgba(128,128,128,.5)"
_BLOCK = "font-family:system-ui,sans-serif;font-size:14px;line-height:1.45;max-width:62rem;overflow-x:auto"
_TABLE = "border-collapse:collapse;border:0;margin:6px 0;font-size:13px;font-variant-numeric:tabular-nums"
_CELL = "border:0;padding:2px 14px 2px 0;background:none;color:inherit;white-space:nowrap"
_HEAD = f"{_CELL};border-bottom:{_LINE};font-weight:600;vertical-align:bottom"


def printable(text: str) -> str:
    """The text with control and direction characters, which could rewrite the line, written as escapes."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """The text, without its end where it is too long."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def words(text: str, longest: int = _LONGEST) -> str:
    """Any text as HTML that is only text."""
    return escape(printable(shortened(text, longest)))


def block(*parts: str) -> str:
    """Parts that are HTML as one output of a cell."""
    return f'<div style="{_BLOCK}">{"".join(parts)}</div>'


def line(text: str, longest: int = _LONGEST) -> str:
    """A paragraph of any text."""
    return f'<p style="margin:2px 0">{words(text, longest)}</p>'


def preformatted(text: str, longest: int) -> str:
    """Any text in its own lines and columns."""
    style = "margin:6px 0;padding:0;font-size:13px;line-height:1.35;background:none;color:inherit;overflow-x:auto"
    return f'<pre style="{style}">{words(text, longest)}</pre>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], more: int = 0) -> str:
    """A table of any texts, numbers at the right below their heads; `more` rows are said to be left out."""
    parts = [f'<table style="{_TABLE}"><thead>{_row("th", _HEAD, heads)}</thead><tbody>']
    parts += [_row("td", _CELL, row) for row in rows]
    parts.append("</tbody></table>")
    return "".join([*parts, line(f"and {more} more") if more else ""])


def outlines(size_hw: tuple[int, int], boxes_xyxy: Sequence[Sequence[float]]) -> str:
    """A picture of boxes in the frame of this size; what lies further outside than the frame is large is cut off."""
    height, width = size_hw
    left, right = _reach(width, [value for box in boxes_xyxy for value in box[::2]])
    top, bottom = _reach(height, [value for box in boxes_xyxy for value in box[1::2]])
    scale = _PICTURE_SIDE / max(right - left, bottom - top)

    def outline(box_xyxy: Sequence[float], colour: str) -> str:
        x1, x2 = (round((min(max(x, left), right) - left) * scale, 1) for x in box_xyxy[::2])
        y1, y2 = (round((min(max(y, top), bottom) - top) * scale, 1) for y in box_xyxy[1::2])
        return f'<path d="M{x1} {y1}H{x2}V{y2}H{x1}Z" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    shapes = [outline((0, 0, width, height), "currentColor"), *(outline(box, _OUTLINE) for box in boxes_xyxy)]
    sides = [round((side * scale) + 2 * _PICTURE_MARGIN, 1) for side in (right - left, bottom - top)]
    view = f"{-_PICTURE_MARGIN} {-_PICTURE_MARGIN} {sides[0]} {sides[1]}"
    return f'<svg width="{sides[0]}" height="{sides[1]}" viewBox="{view}" style="margin:4px 0">{"".join(shapes)}</svg>'


def _reach(side: float, values: Sequence[float]) -> tuple[float, float]:
    """What a picture shows along an axis: the frame, and of what is beside it at most as much on either side."""
    return max(min([0.0, *values]), -side), min(max([side, *values]), 2 * side)


def _row(tag: str, style: str, texts: Sequence[str]) -> str:
    cells = (
        f'<{tag} style="{style};text-align:{"right" if place else "left"}">{words(text)}</{tag}>'
        for place, text in enumerate(texts)
    )
    return f'<tr style="background:none">{"".join(cells)}</tr>'
