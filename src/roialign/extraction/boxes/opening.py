"""Boxes of a collection of images, whatever the form of their annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

from roialign.errors import AnnotationError, OptionError
from roialign.extraction.boxes.coco import open_coco
from roialign.extraction.boxes.files import FileForm, files_of, open_files
from roialign.extraction.boxes.labelme import LabelMe
from roialign.extraction.boxes.made import WORDS, open_made
from roialign.extraction.boxes.matching import Matching
from roialign.extraction.boxes.table import open_csv, open_parquet
from roialign.extraction.boxes.voc import Voc
from roialign.extraction.boxes.yolo import LISTS, Yolo, classes_of
from roialign.extraction.items import BoxSource, ImageRef
from roialign.extraction.paths import suffix_of

Form = Literal["coco", "csv", "parquet", "voc", "yolo", "labelme"]

_SUFFIXES: Mapping[str, Form] = {".json": "coco", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_FOLDERS: Mapping[Form, str] = {"voc": ".xml", "yolo": ".txt", "labelme": ".json"}
_WANTED = (
    "a COCO .json, a .csv or .parquet with one row a box, a folder of VOC's .xml, YOLO's .txt or LabelMe's .json, or "
    f"{WORDS}"
)


class OpenBoxes(BoxSource, Protocol):
    """A source of boxes, and how it goes together with the collection that it was opened for."""

    @property
    def matching(self) -> Matching | None:
        """Which annotations are of which images, and how many of either are without; None where there are none."""


def open_boxes(
    boxes: str | os.PathLike[str],
    images: Sequence[ImageRef],
    index: str | os.PathLike[str],
    *,
    form: Form | None = None,
    with_masks: bool = False,
) -> OpenBoxes:
    """The boxes of a collection of images.

    Convention: see `ImageBoxes`; what each form counts otherwise is converted, fractions excepted, which are marked as
    such. Names of images are found in the collection by their whole path, else by file name, else by stem.

    Args:
        boxes: a COCO .json, a .csv, .tsv or .parquet with one row a box; a folder of VOC's .xml, YOLO's .txt or
            LabelMe's .json; "whole" for a box over each image, "grid:ROWSxCOLUMNS" for boxes of one size that make up
            the image, or "grid:SIZE/STEP" for squares in pixels.
        images: the collection.
        index: where the boxes of one large file are put on the disk. An index of the same file is used again, any other
            one is replaced.
        form: what the annotations are, where their names do not tell.
        with_masks: whether COCO's segmentations are read, too; outlines of YOLO and LabelMe always are.

    Raises:
        AnnotationError: RA701 for annotations that cannot be read, with the place, and for a form that is not told;
            RA702, if none of the images is annotated; RA705, where names fit several images.
        OptionError: RA506, for a form that does not exist.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "boxes.csv").write_text("image,x1,y1,x2,y2,label\\na.jpg,10,20,30,60,cat\\n")
        >>> image = ImageRef("a.jpg", "photos/a.jpg")
        >>> found = open_boxes(folder / "boxes.csv", [image], folder / "index.sqlite").of(image)
        >>> found.boxes_xyxy, found.columns
        (array([[10., 20., 30., 60.]]), {'label': ('cat',)})
    """
    given = os.fspath(boxes)
    if form is not None and form not in get_args(Form):
        raise OptionError(f"RA506: expected form, one of {', '.join(get_args(Form))}; got {form!r}.")
    ids = [image.image_id for image in images]
    source: OpenBoxes | None = None
    if form is None and not os.path.exists(given):
        source = open_made(given)
    if source is not None:
        return source
    source = _of_path(given, ids, os.fspath(index), form, with_masks)
    matching = source.matching
    if ids and matching is not None and matching.names_without and matching.images_without == len(ids):
        raise AnnotationError(
            f"RA702: expected annotations of the collection's images in {given}; none of its {matching.names_without} "
            f"names, as {matching.first_name_without!r}, is one of the {len(ids)} images, as "
            f"{matching.first_image_without!r}. "
            "Pass the annotations of these images, or the images of these annotations."
        )
    return source


def _of_path(given: str, ids: Sequence[str], index: str, form: Form | None, with_masks: bool) -> OpenBoxes:
    if os.path.isdir(given):
        return _of_folder(given, ids, form)
    if not os.path.isfile(given):
        raise AnnotationError(f"RA701: expected {_WANTED}; got {given!r}, which does not exist.")
    form = form or _SUFFIXES.get(suffix_of(given))
    if form == "coco":
        return open_coco(given, ids, index, with_masks)
    if form == "csv":
        return open_csv(given, ids, index)
    if form == "parquet":
        return open_parquet(given, ids, index)
    what = f"form={form!r}, which is a folder's" if form else "form=... where the name does not tell"
    raise AnnotationError(f"RA701: expected {_WANTED}; got the file {given}. Pass {what}.")


def _of_folder(given: str, ids: Sequence[str], form: Form | None) -> OpenBoxes:
    if form in _SUFFIXES.values():
        raise AnnotationError(f"RA701: expected one file of the form {form}; got the folder {given}.")
    folder, form = _told(given, form)
    files = files_of(folder, _FOLDERS[form], LISTS)
    if form == "yolo":
        files = _under_labels(files)
    if not files:
        raise AnnotationError(f"RA701: expected {_FOLDERS[form]} files in {given} and below it; there is none.")
    return open_files(folder, files, _form(form, folder), ids)


def _told(given: str, form: Form | None) -> tuple[str, Form]:
    """The folder with the files, and their form."""
    annotations = os.path.join(given, "Annotations")
    if form in (None, "voc") and os.path.isdir(annotations):
        return annotations, "voc"
    if form is not None:
        return given, form
    counts = {one: len(files_of(given, suffix, LISTS)) for one, suffix in _FOLDERS.items()}
    there = [one for one, count in counts.items() if count]
    if len(there) != 1:
        found = ", ".join(f"{count} {_FOLDERS[one]}" for one, count in counts.items() if count) or "none of them"
        fix = f" Pass form={' or form='.join(map(repr, there))}." if there else ""
        raise AnnotationError(
            f"RA701: expected a folder of VOC's .xml, YOLO's .txt or LabelMe's .json; {given} has {found}.{fix}"
        )
    return given, there[0]


def _under_labels(files: tuple[str, ...]) -> tuple[str, ...]:
    """Those in folders called labels, where there are such: beside them lie a data set's notes."""
    return tuple(name for name in files if "labels" in name.split("/")[:-1]) or files


def _form(form: Form, folder: str) -> FileForm:
    if form == "yolo":
        return Yolo(classes_of(folder))
    return Voc() if form == "voc" else LabelMe()
