"""Boxes of Pascal VOC's form: one XML file an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from roialign.extraction.items import ColumnType, ImageBoxes
from roialign.extraction.packages import needed

_BOX = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS: dict[str, ColumnType] = {"label": "string", "difficult": "bool", "truncated": "bool", "pose": "string"}


@dataclass(frozen=True)
class Voc:
    """Pascal VOC.

    Convention: it counts pixels from 1, the last included, so 1 is subtracted from xmin and ymin and the box is x1, y1,
    x2, y2 of this library. Files that declare entities are refused before anything is expanded.
    """

    name: str = "Pascal VOC's"
    columns: Mapping[str, ColumnType] = field(default_factory=_COLUMNS.copy)

    def read(self, content: bytes) -> ImageBoxes:
        """What a file says; ValueError with the reason, if it cannot be read."""
        root = _parsed(content)
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        objects = root.findall("object")
        rows = [_box(index, one) for index, one in enumerate(objects)]
        numpy = needed("numpy")
        columns: dict[str, tuple[Any, ...]] = {
            "label": tuple(_text(one, "name") for one in objects),
            "difficult": tuple(_flag(one, "difficult") for one in objects),
            "truncated": tuple(_flag(one, "truncated") for one in objects),
            "pose": tuple(_text(one, "pose") for one in objects),
        }
        boxes = numpy.array(rows, dtype=numpy.float64).reshape(-1, 4)
        return ImageBoxes(boxes, tuple(map(str, range(len(rows)))), columns, _size_hw(root))


def _parsed(content: bytes) -> Element:
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entities
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not XML: {error}") from None
    return builder.close()


def _refuse_entities(name: str, *_: Any) -> NoReturn:
    raise ValueError(f"it declares the entity {name!r}, which no annotation needs")


def _box(index: int, marked: Element) -> list[float]:
    texts = [marked.findtext(f"bndbox/{side}") for side in _BOX]
    try:
        x1, y1, x2, y2 = (float(text or "missing") for text in texts)
    except ValueError:
        found = ", ".join(f"{side} {text!r}" for side, text in zip(_BOX, texts, strict=True))
        raise ValueError(f"the bndbox of object {index} is not four numbers: {found}") from None
    return [x1 - 1, y1 - 1, x2, y2]


def _text(marked: Element, tag: str) -> str | None:
    text = marked.findtext(tag)
    return text.strip() if text and text.strip() else None


def _flag(marked: Element, tag: str) -> bool | None:
    text = _text(marked, tag)
    return None if text is None else text not in ("0", "false", "False")


def _size_hw(root: Element) -> tuple[int, int] | None:
    texts = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if not all(text.isdecimal() and int(text) > 0 for text in texts):  # some tools write 0, or nothing
        return None
    return int(texts[0]), int(texts[1])
