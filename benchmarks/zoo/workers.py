"""Rows made by several processes, one of which may hang or die at the cost of one row."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

from benchmarks.zoo.models import EVEN_HW, ODD_HW
from benchmarks.zoo.row import Row

Task = tuple[str, tuple[int, int]]
Make = Callable[[str, tuple[int, int]], Row]
_Spawn = multiprocessing.get_context("spawn")
_START_S = 120.0


def rows(tasks: Sequence[Task], make: Make, workers: int, seconds: float) -> Iterator[Row]:
    """The rows of the tasks, as they become ready; `make` is called in processes that have a thread each."""
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    ready: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    stopped = threading.Event()
    threads = [
        threading.Thread(target=_serve, args=(waiting, ready, make, seconds, stopped), daemon=True)
        for _ in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        running = workers
        while running:
            row = ready.get()
            if row is None:
                running -= 1
            else:
                yield row
    finally:
        stopped.set()
        for thread in threads:
            thread.join(timeout=5)


def _serve(
    waiting: queue.SimpleQueue[Task],
    ready: queue.SimpleQueue[Row | None],
    make: Make,
    seconds: float,
    stopped: threading.Event,
) -> None:
    """Hand tasks to a process, one after another; another process follows one that is lost."""
    worker = _Worker(make)
    try:
        while not stopped.is_set():
            try:
                model, size_hw = waiting.get_nowait()
            except queue.Empty:
                return
            row = worker.row(model, size_hw, seconds, stopped)
            if row is None:
                worker.end()
                worker = _Worker(make)
                row = Row(model, size_hw, "crashed", worker.lost(seconds))
            elif row.outcome == "refused" and size_hw == ODD_HW:
                waiting.put((model, EVEN_HW))
            ready.put(row)
    finally:
        worker.end()
        ready.put(None)


class _Worker:
    """A process that makes rows."""

    def __init__(self, make: Make) -> None:
        self._ours, theirs = _Spawn.Pipe()
        self._process = _Spawn.Process(target=_work, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False

    def row(self, model: str, size_hw: tuple[int, int], seconds: float, stopped: threading.Event) -> Row | None:
        """None if the process gave none in that time, or ended."""
        try:
            self._is_ready = self._is_ready or self._started()
            self._ours.send((model, size_hw))
            for _ in range(max(1, round(seconds))):
                if stopped.is_set():
                    return None
                if self._ours.poll(1.0):
                    answer: Row = self._ours.recv()
                    return answer
        except (EOFError, OSError):
            pass
        return None

    def _started(self) -> bool:
        """Whether it says that it has begun, which importing torch keeps it from for a while."""
        return self._ours.poll(_START_S) and bool(self._ours.recv())

    def lost(self, seconds: float) -> str:
        """What to say of a row that did not come."""
        return f"the process ended, or gave no answer in {seconds:.0f} s"

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _work(pipe: Connection, make: Make) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print would stand between the lines of progress
    os.dup2(nowhere, 2)
    import torch

    torch.set_num_threads(1)
    pipe.send(True)
    while True:
        try:
            model, size_hw = pipe.recv()
        except EOFError:
            return
        pipe.send(make(model, size_hw))
