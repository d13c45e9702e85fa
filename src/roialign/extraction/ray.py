"""The engine of many machines: parts done by Ray's actors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from roialign.errors import WorkerError
from roialign.extraction.items import ImageRef
from roialign.extraction.local import KEEPS_MEMORY, Part
from roialign.extraction.packages import needed
from roialign.extraction.recipe import Job
from roialign.extraction.work import Note, PartWork, Step


class Actor:
    """Does parts of a job, and writes them; `ray.remote` makes an actor of it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._work: PartWork | None = None

    def do(self, number: int, images: Sequence[ImageRef]) -> list[Step]:
        """Do a part; what was done."""
        if self._work is None:
            self._work = self._job.open()
        steps: list[Step] = []
        self._work.do(number, images, self._job.parts, steps.append)
        return steps


def run(job: Job, todo: Iterable[Part], note: Note, workers: int, address: str | None) -> None:
    """Do the parts by so many actors of a Ray cluster; where an actor dies another one does its part.

    All machines have to see the images, the boxes and the folder that is written to, under the same paths. Each actor
    takes a core, or a GPU where the backbone is on one, and writes its parts itself.

    Args:
        job: what to do.
        todo: the parts.
        note: told what was done.
        workers: how many actors.
        address: of the cluster; None for one that is started here, or that the environment names.

    Raises:
        ImportError: if Ray is not installed.
        WorkerError: RA707, if an actor dies over and over.
        StoreError: RA713, if the disk is full.
    """
    ray = needed("ray")
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        _do(ray, job, todo, note, workers)
    finally:
        if ours:
            ray.shutdown()


def _do(ray: Any, job: Job, todo: Iterable[Part], note: Note, workers: int) -> None:
    on_gpu = torch.device(job.recipe.device).type == "cuda"
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # as Ray sets it for one core
    remote = ray.remote(Actor).options(
        num_cpus=1,
        num_gpus=int(on_gpu),
        max_restarts=-1,
        max_task_retries=3,
        runtime_env={"env_vars": {**KEEPS_MEMORY, **threads}},
    )
    shared, parts = ray.put(job), iter(todo)
    doing = dict[Any, tuple[Any, int]]()
    actors = [remote.remote(shared) for _ in range(workers)]
    for actor in actors:
        _give(actor, parts, doing)
    while doing:
        done, _ = ray.wait(list(doing), num_returns=1)
        actor, number = doing.pop(done[0])
        try:
            steps = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except ray.exceptions.RayActorError as error:
            raise WorkerError(
                f"RA707: expected the actor that does part {number} to do it; it died several times, for memory "
                "perhaps, or it crashed. Parts that are written stay: run the same command again."
            ) from error
        for step in steps:
            note(step)
        _give(actor, parts, doing)


def _give(actor: Any, parts: Any, doing: dict[Any, tuple[Any, int]]) -> None:
    part = next(parts, None)
    if part is not None:
        doing[actor.do.remote(*part)] = (actor, part[0])
