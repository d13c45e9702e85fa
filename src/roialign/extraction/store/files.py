"""Files that are there wholly or not at all, on a disk that may be full."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from roialign.errors import StoreError

_UNFINISHED = ".unfinished"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` once the block has ended and all of it is on the disk.

    Whatever stops the block, the process killed or the power gone, `path` is what it was. What a killed process
    leaves has a hidden name of its own, which `remove_unfinished` knows.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what dead processes left in `folder`; nobody else may be writing there."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def room_in(folder: Path, stands: Callable[[], str]) -> Iterator[None]:
    """Make of an OSError for a full disk, or a used-up quota, a StoreError that says what `stands` all the same."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free_mb = shutil.disk_usage(folder).free / 1e6
        raise StoreError(
            f"RA713: expected room for the next file in {folder}; got {error.strerror!r}, with {free_mb:.0f} MB free. "
            f"{stands()} Nothing that is half written is left there. Make room, then run the same command again: it "
            "goes on from here."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
