"""Boxes of COCO's form: one JSON file with images, annotations and categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roialign.errors import AnnotationError
from roialign.extraction.boxes.carried import ColumnTypes, as_number, carried_name, is_scalar
from roialign.extraction.boxes.index import Filled, IndexedBoxes, Tables, open_index
from roialign.extraction.boxes.members import JsonMembers

_TAKEN = frozenset(("id", "image_id", "bbox", "segmentation"))
_NAMES = {"label": "input_label"}  # `label` is the category's name
_FIX = "Pass a file with images, annotations and categories, as COCO's instances_val2017.json."


def open_coco(path: str, images: Sequence[str], index: str, with_masks: bool = False) -> IndexedBoxes:
    """The boxes of a COCO file.

    Convention: bbox is x, y, width, height in pixels. The category's name is the column "label"; score, iscrowd and all
    other fields that are one value each are carried through under their names; lists and objects are not.

    Args:
        images: the ids of the collection.
        index: where the boxes are put on the disk; one of the same file and masks is used again.
        with_masks: whether segmentations are kept, polygons and run lengths as they are.

    Raises:
        AnnotationError: RA701, with line and column, for what is not JSON or not of COCO's form; RA705, where names
            fit several images.
    """

    def fill(tables: Tables) -> Filled:
        with open(path, encoding="utf-8-sig") as file:
            return _Reading(path, tables, with_masks).read(JsonMembers(file, path))

    return open_index(path, index, fill, images, "coco", with_masks)


class _Reading:
    def __init__(self, path: str, tables: Tables, with_masks: bool) -> None:
        self.path, self.tables, self.with_masks = path, tables, with_masks
        self.types, self.places = ColumnTypes(), dict[str, int]()
        self.labels: dict[Any, str] = {}
        self.count = self.without_box = 0

    def read(self, members: JsonMembers) -> Filled:
        takes = {"images": self.image, "annotations": self.annotation, "categories": self.category}
        for key, value in members:
            if key is None:
                what = "results name images by number only" if isinstance(value, dict) else "it is a list"
                raise AnnotationError(f"RA701: expected {self.path} of COCO's form; {what}. {_FIX}")
            if key in takes:
                takes[key](value)
        missing = {"images", "annotations"} - members.keys
        if missing:
            raise AnnotationError(
                f"RA701: expected {self.path} of COCO's form; it has no {' and no '.join(sorted(missing))}, its keys "
                f"are {', '.join(sorted(members.keys)) or 'none'}. {_FIX}"
            )
        if self.count and self.without_box == self.count:
            raise AnnotationError(f"RA701: expected boxes in {self.path}; none of its annotations has a bbox.")
        return Filled(self.types.found(), self.labels if self.labels and "category_id" in self.places else None)

    def image(self, entry: Any) -> None:
        name, key = _field(entry, "file_name"), _key(_field(entry, "id"))
        if not isinstance(name, str) or not name or key is None:
            raise AnnotationError(f"RA701: expected images of {self.path} with id and file_name; got {_short(entry)}.")
        height, width = entry.get("height"), entry.get("width")
        stated = all(isinstance(side, int) and 0 < side < 1 << 31 for side in (height, width))
        self.tables.add_image(key, name, (height, width) if stated else None)

    def category(self, entry: Any) -> None:
        name, key = _field(entry, "name"), _key(_field(entry, "id"))
        if key is None or name is None:
            raise AnnotationError(f"RA701: expected categories of {self.path} with id and name; got {_short(entry)}.")
        self.labels[key] = str(name)

    def annotation(self, entry: Any) -> None:
        number, self.count = self.count, self.count + 1
        key = _key(_field(entry, "image_id"))
        if key is None:
            raise AnnotationError(
                f"RA701: expected annotations of {self.path} with an image_id; annotations[{number}] is "
                f"{_short(entry)}."
            )
        if entry.get("bbox") is None:
            self.without_box += 1
        try:
            left, top, width, height = map(as_number, entry.get("bbox"))
        except (TypeError, ValueError):
            self.tables.add_fault(key, f"annotations[{number}] has the bbox {_short(entry.get('bbox'))}")
            return
        carried: list[Any] = [None] * len(self.places)
        for field, value in entry.items():
            if field in _TAKEN or not is_scalar(value):
                continue
            if field not in self.places:
                self.places[field] = len(carried)
                carried.append(None)
            self.types.meet(carried_name(_NAMES.get(field, field)), value)
            carried[self.places[field]] = value
        mask = (entry.get("segmentation") or None) if self.with_masks else None
        self.tables.add_box(key, str(entry.get("id", number)), (left, top, left + width, top + height), carried, mask)


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _key(value: Any) -> int | str | None:
    """An id as the index can hold it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return value if isinstance(value, str) or abs(value) < 1 << 63 else str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
