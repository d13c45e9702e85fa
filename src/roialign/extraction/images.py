"""What a collection of images may be, as an ordered list of its images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from operator import attrgetter
from pathlib import Path, PurePath

from roialign.backbones.pictures import SUFFIXES
from roialign.errors import CollectionError
from roialign.extraction import shards
from roialign.extraction.items import ImageRef
from roialign.extraction.paths import file_ref, files_below, portable, relative_to, suffix_of

_MAGIC = frozenset("*?[")
_WANTED = (
    "a folder of images, a glob, a .txt with one path a line, a .tar or a folder or glob of them, or a Parquet file "
    "with a column of paths or bytes"
)


def list_images(images: str | os.PathLike[str], *, column: str | None = None) -> list[ImageRef]:
    """The images of a collection, sorted by their ids.

    A folder is searched with all folders below it, for .jpg, .jpeg, .png, .webp, .tif, .tiff and .bmp in any case; if
    it has no such file, for .tar, and else for .parquet. Names that begin with a dot are passed over. Links to folders
    are followed, each folder being listed once. Paths in a .txt and in a Parquet file are relative to that file. Files
    are not opened, so broken ones are listed.

    The ids are paths with "/", relative to the folder, to the part of the glob before its first wildcard, or to the
    .txt or Parquet file; "shard.tar/member.jpg" in a tar; "file.parquet/00000012/name.jpg", with the number of the
    row, where a Parquet file has the bytes. They sort by code points, the same on every machine.

    Args:
        images: a folder, a glob, a .txt with one path a line, a .tar, a .parquet, or one image.
        column: the column of a Parquet file with the paths or bytes; by default the only one that can be it.

    Returns:
        One `ImageRef` for each image.

    Raises:
        CollectionError: RA703, if there is nothing to be found, or what is there cannot be listed; RA704, if two
            images would have one id.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.JPG", "notes.txt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [image.image_id for image in list_images(folder)]
        ['a.JPG', 'b.png']
    """
    given = os.fspath(images)
    try:
        found = sorted(_found(given, column), key=attrgetter("image_id"))
    except OSError as error:
        raise CollectionError(f"RA703: expected images in {given}, which cannot be listed: {error}.") from error
    _refuse_duplicates(given, found)
    return found


def _found(given: str, column: str | None) -> Iterable[ImageRef]:
    if os.path.isdir(given):
        return _of_folder(given, column)
    if not os.path.exists(given) and _MAGIC & set(given):
        return _of_glob(given, column)
    if not os.path.exists(given):
        remote = " Mount it, or download it first." if "://" in given else ""
        raise CollectionError(f"RA703: expected {_WANTED}; got {given!r}, which does not exist.{remote}")
    if suffix_of(given) == ".txt":
        return _of_listing(given)
    opened = _opened([given], os.path.dirname(given), column)
    if opened is None:
        raise CollectionError(f"RA703: expected {_WANTED}; got the file {given}.")
    return opened


def _of_folder(folder: str, column: str | None) -> Iterable[ImageRef]:
    files = list(files_below(folder))
    opened = _opened(files, folder, column)
    if opened is None:
        raise CollectionError(
            f"RA703: expected images ({', '.join(SUFFIXES)}), .tar or .parquet in {folder} and the folders below it; "
            f"{_what_is_there(files)}"
        )
    return opened


def _of_glob(given: str, column: str | None) -> Iterable[ImageRef]:
    parts = PurePath(given).parts
    first = next(index for index, part in enumerate(parts) if _MAGIC & set(part))
    base, pattern = Path(*parts[:first]), PurePath(*parts[first:])
    if pattern.name == "**":
        pattern /= "*"
    matched = dict.fromkeys(base.glob(str(pattern)))
    files = [str(path) for path in matched if _is_shown(path.relative_to(base)) and not path.is_dir()]
    opened = _opened(files, str(base) if parts[:first] else "", column)
    if opened is None:
        raise CollectionError(
            f"RA703: expected images ({', '.join(SUFFIXES)}), .tar or .parquet that match {pattern} in "
            f"{base.absolute()}; {_what_is_there(files)}"
        )
    return opened


def _is_shown(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _opened(files: list[str], base: str, column: str | None) -> Iterable[ImageRef] | None:
    """The images among `files`; else those in the tars among them, else in the Parquet files; None without any."""
    if pictures := [path for path in files if suffix_of(path) in SUFFIXES]:
        return (ImageRef(portable(relative_to(path, base)), path) for path in pictures)
    if tars := [path for path in files if suffix_of(path) == ".tar"]:
        return _within((shards.of_tar(path, portable(relative_to(path, base))) for path in tars), tars)
    if tables := [path for path in files if suffix_of(path) == ".parquet"]:
        return _within((shards.of_parquet(path, portable(relative_to(path, base)), column) for path in tables), tables)
    return None


def _within(contents: Iterable[Iterable[ImageRef]], paths: list[str]) -> Iterator[ImageRef]:
    empty = True
    for image in chain.from_iterable(contents):
        empty = False
        yield image
    if empty:
        raise CollectionError(
            f"RA703: expected images in {paths[0]}{f' and {len(paths) - 1} more files' if paths[1:] else ''}; found "
            f"none ({', '.join(SUFFIXES)} in a .tar, rows in a .parquet)."
        )


def _of_listing(listing: str) -> Iterable[ImageRef]:
    try:
        lines = Path(listing).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CollectionError(f"RA703: expected {listing} as UTF-8 with one path a line: {error}.") from error
    base = os.path.dirname(listing)
    found = [file_ref(line, base) for line in lines if line.strip()]
    if not found:
        raise CollectionError(f"RA703: expected one path of an image a line in {listing}; it is empty.")
    if not any(os.path.lexists(image.location) for image in found):
        raise CollectionError(
            f"RA703: expected paths relative to {os.path.abspath(base)} in {listing}; none of its {len(found)} files "
            f"exists, the first is {found[0].location}."
        )
    return found


def _what_is_there(files: Iterable[str]) -> str:
    suffixes = Counter(suffix_of(path) or "without a suffix" for path in files)
    if not suffixes:
        return "there is no file."
    counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return f"found {suffixes.total()} other files: {counts}."


def _refuse_duplicates(given: str, found: list[ImageRef]) -> None:
    twice = [(one, other) for one, other in pairwise(found) if one.image_id == other.image_id]
    if twice:
        one, other = twice[0]
        more = f"; {len(twice) - 1} more come twice" if twice[1:] else ""
        raise CollectionError(
            f"RA704: expected each image of {given} under an id of its own; {one.image_id!r} is that of "
            f"{_place(one)} and {_place(other)}{more}. Take out one of the two."
        )


def _place(image: ImageRef) -> str:
    return image.location if image.member is None else f"{image.location} at {image.member}"
