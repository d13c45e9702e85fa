"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roialign.errors import StoreError

_NAME = "lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_held: set[int] = set()


@contextmanager
def locked(folder: Path, command: str) -> Iterator[bool]:
    """Hold `folder` against other runs; False where its file system has no locks.

    It is the operating system's lock on the file `lock`, which the kernel lifts when the process ends, however it
    ends: a dead process's lock stops nobody, and the file itself says nothing but who holds it, for the message.

    On network file systems it is the server that locks. NFS does, for all hosts; the lock of a host that died lasts
    until its lease ends, by default 90 seconds, and over NFSv3 until the host is up again. Lustre locks among all
    hosts when mounted with `flock`, among the processes of one host with `localflock`, and not at all without, as
    some FUSE and object stores do. There a warning says so and the run goes on: parts are replaced as a whole, and two
    runs of one extraction write the same, each part twice.

    Raises:
        StoreError: RA712, if another run holds it, in this process or any other, with what is known of that one.
    """
    path = folder / _NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise StoreError(
                    f"RA712: expected to be the only run in {folder}; it is in use by {_holder(path)}. Wait for it, "
                    "stop it, or choose another folder."
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"The file system of {folder} has no locks ({error.strerror}): see that no other run writes there.",
                stacklevel=3,
            )
            yield False
            return
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": command,
        }
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode(), 0)
        yield True
    finally:
        if descriptor in _held:  # not so in a forked child
            _held.discard(descriptor)
            os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['since']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another process"


def _let_go_in_child() -> None:
    """A forked child shares its parent's locks, and would hold them when the parent is dead."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
