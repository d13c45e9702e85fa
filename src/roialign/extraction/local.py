"""The engine of one machine: parts in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from roialign.errors import WorkerError
from roialign.extraction.items import ImageRef
from roialign.extraction.recipe import Job
from roialign.extraction.work import Note, Step
from roialign.regions import RegionExtractor

Part = tuple[int, Sequence[ImageRef]]
"""The number of a part, and its images."""

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""In the environment of a process, it makes glibc keep what is freed: each batch asks for tensors of the same sizes."""

_PATIENCE_S = 5.0  # for a process that was told to end


def run(job: Job, todo: Iterable[Part], note: Note, workers: int, extractor: RegionExtractor) -> None:
    """Do the parts, in this process or by so many others.

    With one worker the parts are done here, by `extractor`. More are processes that are spawned, each with its own
    model and its share of the processor's cores; each takes the next part whenever it has done one.

    Raises:
        WorkerError: RA707, if a process ends without a word, as one does that is out of memory.
        StoreError: RA713, if the disk is full.
    """
    if workers == 1:
        _here(job, todo, note, extractor)
    else:
        _elsewhere(job, iter(todo), note, workers)


def _here(job: Job, todo: Iterable[Part], note: Note, extractor: RegionExtractor) -> None:
    work = job.open(extractor)
    try:
        for number, images in todo:
            work.do(number, images, job.parts, note)
    finally:
        work.close()


def _elsewhere(job: Job, todo: Iterator[Part], note: Note, workers: int) -> None:
    with _processes(job, workers) as pipes:
        doing = dict[Connection, int | None]()
        for one in pipes:
            doing[one] = _give(one, todo)
        while any(number is not None for number in doing.values()):
            for ready in wait([one for one, number in doing.items() if number is not None]):
                pipe: Any = ready
                said = _hear(pipe, doing[pipe])
                if isinstance(said, Step):
                    note(said)
                elif isinstance(said, BaseException):
                    raise said
                else:
                    doing[pipe] = _give(pipe, todo)


def _give(pipe: Connection, todo: Iterator[Part]) -> int | None:
    """Give a process the next part; its number, or None where there is none left."""
    part = next(todo, None)
    if part is None:
        return None
    with suppress(OSError):  # it has died, which is found out when it is to be heard
        pipe.send(part)
    return part[0]


def _hear(pipe: Connection, number: int | None) -> Step | BaseException | None:
    """What a process says: a step, what it raised, or that it has done its part."""
    try:
        said: Step | BaseException | None = pipe.recv()
    except (EOFError, OSError):
        raise WorkerError(
            f"RA707: expected the process that does part {number} to do it; it was killed, for memory perhaps, or it "
            "crashed. Parts that are written stay: run the same command again, with fewer workers."
        ) from None
    return said


@contextmanager
def _processes(job: Job, workers: int) -> Iterator[list[Connection]]:
    """Processes that work as long as the block lasts, and end when this process does, however it ends."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, pickle.dumps(job), threads), daemon=True)
            with _in_environment(KEEPS_MEMORY):
                process.start()
            theirs.close()
            started.append((process, ours))
        yield [pipe for _, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
        for process, _ in started:
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()


@contextmanager
def _in_environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """With these variables where they are not set, for a process that is started within the block."""
    added = defaults.keys() - os.environ.keys()
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _work(pipe: Connection, pickled: bytes, threads: int) -> None:
    """What a process does: parts that come through the pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    quiet_about_files()
    try:
        job: Job = pickle.loads(pickled)
        work = job.open()
        while True:
            number, images = pipe.recv()
            work.do(number, images, job.parts, pipe.send)
            pipe.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except Exception as error:
        pipe.send(_sendable(error))


def quiet_about_files() -> None:
    """Keep Pillow's warnings, of EXIF that it cannot read for one, out of the lines of progress of this process."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
