"""Boxes of YOLO's form: one text file an image, in fractions of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roialign.errors import AnnotationError
from roialign.extraction.boxes.outline import box_around
from roialign.extraction.items import ColumnType, ImageBoxes
from roialign.extraction.packages import needed

LISTS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
"""The files that may name the classes, the first that is there counts."""
_ABOVE = 2  # folders in which they are looked for: of root/labels/train the root


@dataclass(frozen=True)
class Yolo:
    """YOLO: class cx cy w h in each line, or class x y x y x y ... for an outline; a confidence may follow.

    Convention: fractions of the picture's width and height. The box of an outline is that around its points, and the
    outline is its mask. An empty file says that the image has no box. "label" is the class's name, or its number as
    text where no file names it.

    Args:
        classes: the names, by their numbers.
    """

    classes: Mapping[int, str]
    name: str = "YOLO's"

    @property
    def columns(self) -> dict[str, ColumnType]:
        """The types of what is carried through, by name."""
        return {"label": "string", "class_index": "int64", "score": "float64"}

    def read(self, content: bytes) -> ImageBoxes:
        """What a file says; ValueError with the reason, if it cannot be read."""
        rows, indices, scores, masks = list[list[float]](), list[int](), list[float | None](), list[Any]()
        for number, line in enumerate(content.decode("utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            index, values = _numbers(line, number)
            if len(values) > 5:
                points = values[: len(values) // 2 * 2]
                rows.append(box_around(points[0::2], points[1::2]))
            else:
                x, y, width, height = points = values[:4]
                rows.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            masks.append([points] if len(values) > 5 else None)
            scores.append(values[-1] if len(values) > len(points) else None)
            indices.append(index)
        numpy = needed("numpy")
        labels = tuple(self.classes.get(index, str(index)) for index in indices)
        return ImageBoxes(
            numpy.array(rows, dtype=numpy.float64).reshape(-1, 4),
            tuple(map(str, range(len(rows)))),
            {"label": labels, "class_index": tuple(indices), "score": tuple(scores)},
            normalized=True,
            masks=tuple(masks) if any(mask is not None for mask in masks) else None,
        )


def _numbers(line: str, number: int) -> tuple[int, list[float]]:
    first, *rest = line.split()
    try:
        index, values = float(first), [float(text) for text in rest]
    except ValueError:
        raise ValueError(f"line {number} holds what is not a number: {line.strip()[:80]!r}") from None
    if not index.is_integer() or index < 0:
        raise ValueError(f"line {number} begins with {first}, which is no number of a class")
    if len(values) < 4:
        raise ValueError(
            f"line {number} has {len(rest) + 1} numbers; wanted class cx cy w h or class x y x y x y ..., "
            "with a confidence behind it or without"
        )
    return int(index), values


def classes_of(folder: str) -> dict[int, str]:
    """The names of the classes, from the first of `LISTS` in `folder` or up to two above it.

    Raises:
        AnnotationError: RA701, for such a file that cannot be read.
    """
    here = Path(folder).absolute()
    for place in (here, *here.parents[:_ABOVE]):
        for name in LISTS:
            path = place / name
            if path.is_file():
                return _classes_in(path)
    return {}


def _classes_in(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".txt", ".names"):
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        names = _names_in_yaml(text)
    except (ValueError, OSError) as error:
        raise AnnotationError(f"RA701: expected the names of YOLO's classes in {path}; {error}.") from error
    return names


def _names_in_yaml(text: str) -> dict[int, str]:
    yaml = needed("yaml")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    names: Mapping[Any, Any] | Sequence[Any] | Any = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(index, int) for index in names):
        raise ValueError("it has no names: a list, or names by number")
    return {index: str(name) for index, name in names.items()}
