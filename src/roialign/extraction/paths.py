"""Files below a folder, and paths as the ids of images: the same on every machine."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

from roialign.extraction.items import ImageRef


def files_below(folder: str) -> Iterator[str]:
    """The paths of all files of a folder and of those below it, but for names that begin with a dot.

    Links to folders are followed after all real folders were listed, and no folder is listed twice, so loops end.
    Dangling links count as files.

    Raises:
        OSError: if one of the folders cannot be listed.
    """
    folders, links, seen = [folder], list[str](), set[tuple[int, int]]()
    while folders or links:
        here = folders.pop() if folders else links.pop()
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(here) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name, reverse=True)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield entry.path
            else:
                (links if entry.is_symlink() else folders).append(entry.path)


def suffix_of(path: str) -> str:
    """Of the file's name, in small letters: ".jpg"."""
    return os.path.splitext(path)[1].lower()


def relative_to(path: str, base: str) -> str:
    """`path`, which is below `base`, from there."""
    return path[len(os.path.join(base, "")) :] if base else path


def portable(path: str) -> str:
    """A path with "/", without "." and ".." in its midst, as text that is valid UTF-8."""
    path = posixpath.normpath(path.replace(os.sep, "/"))
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_ref(path: str, base: str) -> ImageRef:
    """The image at `path`, relative to `base` or absolute; its id is relative to `base` where it is below it."""
    location = os.path.normpath(os.path.join(base, path))
    if os.path.isabs(path):
        below = os.path.join(os.path.abspath(base), "")
        path = location.removeprefix(below)
    return ImageRef(portable(path), location)
