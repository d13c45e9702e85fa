"""Boxes in a folder with one file of annotations for each image, read when it is the image's turn."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roialign.errors import AnnotationError
from roialign.extraction.boxes.matching import Matching, match
from roialign.extraction.items import ColumnType, ImageBoxes, ImageRef
from roialign.extraction.paths import files_below, portable, relative_to, suffix_of


class FileForm(Protocol):
    """How one file is read. It can be pickled."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """The types of what is carried through, by name."""

    def read(self, content: bytes) -> ImageBoxes:
        """What a file says; ValueError with the reason, if it cannot be read."""


@dataclass(frozen=True)
class FileBoxes:
    """The boxes of a folder of files; see `BoxSource`."""

    folder: str
    form: FileForm
    fingerprint: str
    files: tuple[str, ...]
    matching: Matching

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """The types of what is carried through, by name."""
        return self.form.columns

    def of(self, image: ImageRef) -> ImageBoxes | None:
        """What is marked in `image`; RA701, if its file cannot be read."""
        name = self.matching.renamed.get(image.image_id)
        if name is None:
            return None
        path = os.path.join(self.folder, name)
        try:
            return self.form.read(Path(path).read_bytes())
        except (ValueError, OSError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise AnnotationError(f"RA701: expected {path} of {self.form.name} form; {error}.") from error

    def unmatched(self, images: Iterable[str]) -> Iterator[str]:
        """The files that are of no image of the collection."""
        taken = {self.matching.renamed.get(image) for image in images}
        return (name for name in self.files if name not in taken)


def files_of(folder: str, suffix: str, leave: Sequence[str] = ()) -> tuple[str, ...]:
    """The files with `suffix` in a folder and below it, relative to it, but for those of the names in `leave`."""
    found = (portable(relative_to(path, folder)) for path in files_below(folder) if suffix_of(path) == suffix)
    return tuple(sorted(name for name in found if os.path.basename(name).lower() not in leave))


def open_files(folder: str, files: tuple[str, ...], form: FileForm, images: Sequence[str]) -> FileBoxes:
    """The boxes of `files`, relative to `folder`. All are read once, for the fingerprint.

    Raises:
        AnnotationError: RA705, where files fit several images.
    """
    digest = hashlib.sha256(repr(form).encode())
    for name in files:
        content = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return FileBoxes(folder, form, digest.hexdigest(), files, match(files, images, folder))
