"""One run at a time, and no dead one in the way."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from roialign.errors import StoreError
from roialign.extraction.store import lock
from roialign.extraction.store.lock import locked
from roialign.extraction.store.writing import writing

from .made import MANIFEST, store_in

HOLDER = """
import os, sys, time
from pathlib import Path
from roialign.extraction.store.lock import locked

with locked(Path(sys.argv[1]), "roialign extract photos"):
    child = os.fork() if "fork" in sys.argv else None
    if child != 0:
        print(child or os.getpid(), flush=True)
    time.sleep(600)
"""


def hold(folder, *words):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *words], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_a_second_process_is_refused_and_a_killed_one_is_no_obstacle(tmp_path):
    process, pid = hold(tmp_path)
    try:
        said = rf"RA712: .*{tmp_path}.*process {pid} on {socket.gethostname()} since \d{{4}}-.* \(roialign extract "
        with pytest.raises(StoreError, match=said), locked(tmp_path, "second"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with locked(tmp_path, "third") as alone:
        assert alone
        assert json.loads((tmp_path / "lock").read_text())["command"] == "third"


def test_a_fork_that_outlives_its_parent_holds_nothing(tmp_path):
    process, child = hold(tmp_path, "fork")
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)
        with locked(tmp_path, "next") as alone:
            assert alone
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_fork_does_not_let_go_of_its_parents_lock(tmp_path):
    with locked(tmp_path, "parent"):
        child = os.fork()
        if not child:
            os._exit(len(lock._held))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(StoreError, match="RA712"), locked(tmp_path, "other"):
            pass


def test_two_runs_in_one_process(tmp_path):
    with writing(tmp_path, MANIFEST):
        with pytest.raises(StoreError, match=rf"RA712: .*process {os.getpid()} "), writing(tmp_path, MANIFEST):
            pass
        with writing(tmp_path / "elsewhere", MANIFEST):
            pass
    with writing(tmp_path, MANIFEST):
        pass
    assert not lock._held


def test_what_is_running_is_not_disturbed_by_what_is_refused(tmp_path):
    left = tmp_path / "parts" / f".x.{'0' * 16}.unfinished"
    with writing(tmp_path, MANIFEST):
        left.touch()
        with pytest.raises(StoreError, match="RA712"), writing(tmp_path, MANIFEST):
            pass
        assert left.exists()


def test_it_is_let_go_when_the_run_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, "first"):
        raise KeyboardInterrupt
    with locked(tmp_path, "second"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_holder_that_has_not_said_who_it_is(tmp_path, content):
    with locked(tmp_path, "first"):
        (tmp_path / "lock").write_text(content)
        with pytest.raises(StoreError, match="in use by another process"), locked(tmp_path, "second"):
            pass


def test_without_locks_it_warns_and_touches_nothing_of_others(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    (tmp_path / "parts").mkdir()
    left = tmp_path / "parts" / f".x.{'0' * 16}.unfinished"
    left.touch()
    with pytest.warns(UserWarning, match=f"{tmp_path} has no locks"):
        regions = store_in(tmp_path)
    assert regions.finished
    assert left.exists()


def test_other_errors_of_locking_come_through(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lock.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path, "first"):
        pass
    assert not lock._held
