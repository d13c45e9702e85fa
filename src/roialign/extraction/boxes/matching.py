"""Which name of the annotations is which image of the collection."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from roialign.backbones.pictures import SUFFIXES
from roialign.errors import AnnotationError

_ANNOTATIONS = (".xml", ".json", ".txt")
_SIDES = frozenset(("images", "labels", "jpegimages", "annotations"))  # folders that stand for one another

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Matching:
    """How the annotations and the collection go together.

    Args:
        renamed: the annotations' names of images that are called otherwise in the collection, by their ids.
        by_path, by_file_name, by_stem: how many images were found so.
        images_without: how many images of the collection the annotations do not have; and the first.
        names_without: how many images of the annotations the collection does not have; and the first.
    """

    renamed: dict[str, str]
    by_path: int
    by_file_name: int = 0
    by_stem: int = 0
    images_without: int = 0
    first_image_without: str = ""
    names_without: int = 0
    first_name_without: str = ""

    def __str__(self) -> str:
        ways = {"path": self.by_path, "file name": self.by_file_name, "stem": self.by_stem}
        how = ", ".join(f"{count} by {way}" for way, count in ways.items() if count)
        count = sum(ways.values())
        have = "image has" if count == 1 else "images have"
        text = f"{count} {have} annotations ({how})" if count else "no image has annotations"
        if self.images_without:
            text += f"; {self.images_without} of the collection have none, the first is {self.first_image_without}"
        if self.names_without:
            text += f"; {self.names_without} of the annotations are missing, the first is {self.first_name_without}"
        return text


def match(names: Iterable[str], images: Sequence[str], where: str) -> Matching:
    """Find the image of each name: by its whole path, else by its file name, else by its stem.

    Where several images have a file name or stem, the folders above tell them apart as far as they are the same.
    "labels" and "images" and the like count as the same folder.

    Args:
        names: of the annotations, each once: paths, with slashes or backslashes.
        images: the ids of the collection.
        where: what messages call the annotations.

    Raises:
        AnnotationError: RA705, where two names could be of one image, or two images of one name.

    Example:
        >>> matching = match(["a/1.png", "b/1.png", "2.png"], ["photos/b/1.png", "photos/2.jpg"], "boxes.json")
        >>> matching.renamed
        {'photos/b/1.png': 'b/1.png', 'photos/2.jpg': '2.png'}
        >>> print(matching)
        2 images have annotations (1 by file name, 1 by stem); 1 of the annotations are missing, the first is a/1.png
    """
    images_left, names_left = dict.fromkeys(images), list[str]()
    for name in names:
        if name in images_left:
            del images_left[name]
        else:
            names_left.append(name)
    by_path = len(images) - len(images_left)
    counts, renamed = dict[Callable[[str], Parts], int](), dict[str, str]()
    for parts_of in (_file_name_parts, _stem_parts):
        found = dict(_pairs(names_left, images_left, parts_of, where))
        renamed |= found
        counts[parts_of] = len(found)
        taken = set(found.values())
        names_left = [name for name in names_left if name not in taken]
        images_left = {image: None for image in images_left if image not in found}
    return Matching(
        renamed,
        by_path,
        counts[_file_name_parts],
        counts[_stem_parts],
        images_without=len(images_left),
        first_image_without=next(iter(images_left), ""),
        names_without=len(names_left),
        first_name_without=next(iter(names_left), ""),
    )


def _pairs(
    names: Iterable[str], images: Iterable[str], parts_of: Callable[[str], Parts], where: str
) -> Iterator[tuple[str, str]]:
    """Images and their names that end alike: those that are alike as a whole first, then from the longest ends on."""
    names_left, images_left = ({one: parts_of(one) for one in both} for both in (names, images))
    ends = {parts[-1] for parts in names_left.values()} & {parts[-1] for parts in images_left.values()}
    for left in (names_left, images_left):
        for one in [one for one, parts in left.items() if parts[-1] not in ends]:
            del left[one]
    deepest = max((len(parts) for parts in chain(names_left.values(), images_left.values())), default=0)
    for depth in (0, *range(deepest, 0, -1)):  # 0: the whole of it
        grouped = _grouped(names_left, depth)
        for end, of_images in _grouped(images_left, depth).items():
            of_names = grouped.get(end)
            if of_names is None:
                continue
            if len(of_images) > 1 or len(of_names) > 1:
                raise _ambiguous(of_names, of_images, where)
            yield of_images[0], of_names[0]
            del images_left[of_images[0]], names_left[of_names[0]]


def _grouped(left: dict[str, Parts], depth: int) -> dict[Parts, list[str]]:
    groups: dict[Parts, list[str]] = defaultdict(list)
    for one, parts in left.items():
        if len(parts) >= depth:
            groups[parts[-depth:]].append(one)  # parts[-0:] is the whole
    return groups


def _ambiguous(names: list[str], images: list[str], where: str) -> AnnotationError:
    if len(images) > 1:
        what = f"{where} has {names[0]!r}, which could be {images[0]!r} or {images[1]!r}"
    else:
        what = f"{images[0]!r} could be {names[0]!r} or {names[1]!r} of {where}"
    return AnnotationError(
        f"RA705: expected the annotations' names to tell the images of the collection apart; {what}. Name the images "
        "by their paths in the annotations, or extract one folder at a time."
    )


def _file_name_parts(name: str) -> Parts:
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return *(part for part in parts[:-1] if part not in ("", ".") and part.lower() not in _SIDES), parts[-1]


def _stem_parts(name: str) -> Parts:
    *folders, last = _file_name_parts(name)
    stem, dot, suffix = last.rpartition(".")
    return *folders, stem if (dot + suffix).lower() in (*SUFFIXES, *_ANNOTATIONS) else last
